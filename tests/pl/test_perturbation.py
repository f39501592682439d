from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pytest
from anndata import AnnData

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable

mpl.use("Agg")


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    """Predictions for a measured and an unmeasured gene, in two groups."""
    adata = make_adata(100)
    a, b = adata.var_names[:2]
    adata.obs["guide"] = np.resize(["ctrl", "ctrl", a, b], 100)
    model = sf.model.CellPLM(genes=adata.var_names, n_hidden=16, n_latent=4)
    asked = {"perturbation_key": "guide", "control": "ctrl", "perturbations": [a, "KLF1"]}
    sf.tl.predict_perturbation(adata, **asked, group_key="batch", model=model, device="cpu")
    return adata


def test_measured_cells_choose_the_genes(adata: AnnData) -> None:
    gene = adata.var_names[0]
    ax = sf.pl.perturbation(adata, gene, group="batch 1", n_genes=5)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["predicted", "measured"]
    here = (adata.obs["batch"] == "batch 1").to_numpy()
    counts = adata.X.toarray()
    log = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    change = log[here & (adata.obs["guide"] == gene)].mean(0) - log[here & (adata.obs["guide"] == "ctrl")].mean(0)
    largest = adata.var_names[np.argsort(-np.abs(change))[:5]]
    assert [label.get_text() for label in ax.get_yticklabels()] == largest.tolist()
    profiles = adata.uns["perturbation"]["profiles"]
    drawn = next(line for line in ax.lines if line.get_label() == "predicted").get_xdata()
    np.testing.assert_allclose(drawn, profiles[f"{gene} | batch 1", largest].layers["change"].ravel())
    assert "batch 1" in ax.get_title()


def test_without_measured_cells_the_prediction_stands_alone(adata: AnnData) -> None:
    ax = sf.pl.perturbation(adata, "KLF1", group="batch 0")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["predicted"]
    assert len(ax.get_yticklabels()) == 20


def test_the_title_has_no_number_that_shared_controls_inflate(adata: AnnData) -> None:
    gene = adata.var_names[0]
    assert sf.pl.perturbation(adata, gene, group="batch 1").get_title() == f"{gene}, batch 1"


def test_the_order_of_a_pair_says_nothing(adata: AnnData) -> None:
    a, b = adata.var_names[:2]
    model = sf.model.CellPLM(genes=adata.var_names, n_hidden=16, n_latent=4)
    asked = {"perturbation_key": "guide", "control": "ctrl"}
    for names in ([f"{a}+{b}", b], [f"{a}+{b}", f"{b}+{a}"]):
        sf.tl.predict_perturbation(adata, **asked, perturbations=names, model=model, device="cpu")
        drawn, same = (sf.pl.perturbation(adata, name).lines[-1].get_xdata() for name in (f"{a}+{b}", f"{b}+{a}"))
        assert len(drawn) == 20
        np.testing.assert_array_equal(drawn, same)
    with pytest.raises(ValueError, match="was not predicted"):
        sf.pl.perturbation(adata, a)


def test_it_says_what_is_missing(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"Run it first: sf.tl.predict_perturbation"):
        sf.pl.perturbation(AnnData(np.ones((2, 2))), "KLF1")
    with pytest.raises(ValueError, match="'GATA1' was not predicted"):
        sf.pl.perturbation(adata, "GATA1")
    with pytest.raises(ValueError, match="group must be one of 'batch 0', 'batch 1'"):
        sf.pl.perturbation(adata, "KLF1")
