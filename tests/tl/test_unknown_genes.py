"""Genes that the data have and the model does not know: what their counts can answer is not refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

TINY = {"n_hidden": 32, "n_layers": 1, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}
N_PANEL, N_REFERENCE = 100, 130
CORRELATIONS = ["pearson", "partial_pearson"]
ANSWERS = np.arange(4, 9)
KEYS: dict[str, Any] = {"perturbation_key": "guide", "control": "ctrl", "device": "cpu"}


# ---- imputation ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    """An untrained model, which is never changed."""
    return sf.model.CellPLM(genes=make_adata(n_vars=N_REFERENCE + 10).var_names, **TINY)


@pytest.fixture
def tissue(make_adata: Callable[..., AnnData]) -> tuple[AnnData, AnnData]:
    """Spots and a reference with 30 genes more, before some are called by names that the model does not know."""
    counts = make_adata(120, N_REFERENCE)
    return counts[:60, :N_PANEL].copy(), counts[60:].copy()


@pytest.fixture
def spots(tissue: tuple[AnnData, AnnData]) -> AnnData:
    """One gene is unknown."""
    spots = tissue[0]
    spots.var_names = [*spots.var_names[:-1], "of both"]
    return spots


@pytest.fixture
def cells(tissue: tuple[AnnData, AnnData]) -> AnnData:
    """The same gene, two more, one of them in two columns, and a column without a name."""
    cells, names = tissue[1], tissue[1].var_names.tolist()
    cells.var_names = [*names[: N_PANEL - 1], "of both", *names[N_PANEL:-4], "new 1", "new 2", "new 2", ""]
    return cells


def impute(spots: AnnData, cells: AnnData, model: Any, **arguments: Any) -> Any:
    return sf.tl.impute_spatial(spots, cells, model=model, device="cpu", **arguments)


def imputed(spots: AnnData, cells: AnnData, model: Any, **arguments: Any) -> pd.DataFrame:
    return impute(spots, cells, model, copy=True, **arguments).obsm["imputed"]


def test_genes_of_the_reference_that_the_model_does_not_know_are_imputed(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData, tmp_path: Path
) -> None:
    impute(spots, cells, model)
    table, uns = spots.obsm["imputed"], spots.uns["imputed"]
    assert list(table.columns) == [*cells.var_names[N_PANEL:-4], "new 1", "new 2"]
    assert (table.to_numpy() > 0).all()
    by_gene = uns["confidence"].loc[["new 1", "new 2"]]
    assert by_gene[CORRELATIONS].notna().all(axis=None)
    of_unknown = {kind for kind, weight in uns["weights_of_unknown_genes"].items() if weight}
    assert of_unknown <= {"library", "composition"}
    assert set(by_gene["evidence"]) == {", ".join(kind for kind in ("library", "composition") if kind in of_unknown)}
    together = cells[:, [*range(cells.n_vars - 2)]].copy()
    together.X[:, -1] += cells.X[:, -2]
    np.testing.assert_allclose(imputed(spots, together, model, genes="new 2"), table[["new 2"]], rtol=1e-4)
    spots.write_h5ad(tmp_path / "spots.h5ad")
    spots.write_zarr(tmp_path / "spots.zarr")
    for read in (ad.read_h5ad(tmp_path / "spots.h5ad"), ad.read_zarr(tmp_path / "spots.zarr")):
        pd.testing.assert_frame_equal(read.uns["imputed"]["confidence"], uns["confidence"], check_dtype=False)


def test_genes_that_the_model_knows_do_not_depend_on_the_others(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData
) -> None:
    genes = cells.var_names[N_PANEL : N_PANEL + 9].tolist()
    expected = imputed(spots[:, :-1].copy(), cells[:, : N_REFERENCE - 4].copy(), model, genes=genes)
    np.testing.assert_array_equal(imputed(spots, cells, model, genes=genes), expected)
    np.testing.assert_allclose(imputed(spots, cells, model, genes=[*genes, "new 1"])[genes], expected, rtol=1e-5)


def test_an_unknown_gene_that_the_spots_have_is_measured(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData
) -> None:
    with pytest.raises(ValueError, match=r"measured in the spots already: 'of both'"):
        impute(spots, cells, model, genes=["of both", "new 1"])


def test_a_superseded_name_is_that_of_its_gene(tissue: tuple[AnnData, AnnData]) -> None:
    spots, cells = tissue
    names = [*cells.var_names[:-2], "MARCHF1", "MARCH1"]
    cells.var_names = names
    model = sf.model.CellPLM(genes=names[:-1], **TINY)
    assert list(imputed(spots, cells, model).columns) == names[N_PANEL:-1]
    np.testing.assert_array_equal(
        imputed(spots, cells, model, genes=["MARCH1"]), imputed(spots, cells, model, genes=["MARCHF1"])
    )


def test_evidence_of_the_model_alone_says_nothing_of_genes_that_it_does_not_know(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData
) -> None:
    assert list(imputed(spots, cells, model, evidence=["decoder"]).columns) == cells.var_names[N_PANEL:-4].tolist()
    with pytest.raises(ValueError, match=r"does not know, as 'new 1'\..*evidence=\['composition', 'decoder'\]"):
        impute(spots, cells, model, evidence=["decoder"], genes=["new 1"])


# ---- responses to perturbations ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screen(make_adata: Callable[..., AnnData]) -> AnnData:
    """Controls, two genes of which the first changes five others, and both."""
    rng = np.random.default_rng(0)
    genes = make_adata(n_vars=40).var_names
    effect = np.ones(40)
    effect[ANSWERS] = (4.0, 0.25, 3.0, 0.3, 2.0)
    guides = {"ctrl": 1, genes[0]: effect, genes[1]: 1, f"{genes[0]}+{genes[1]}": effect}
    base = rng.lognormal(2, 0.5, 40)
    counts = np.vstack([rng.poisson(np.tile(base * factor, (60, 1))) for factor in guides.values()])
    obs = pd.DataFrame({"guide": np.repeat(list(guides), 60)}, index=[f"cell {i}" for i in range(len(counts))])
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes))


@pytest.mark.parametrize("fine_tune", [False, True])
def test_genes_that_the_model_does_not_know_respond_as_measured(
    screen: AnnData, tmp_path: Path, *, fine_tune: bool
) -> None:
    a, b = screen.var_names[:2]
    model = sf.model.CellPLM(genes=screen.var_names.delete(ANSWERS), **TINY)
    adata = screen.copy()
    names = adata.var_names.to_numpy(dtype=object, copy=True)
    names[ANSWERS[2:]] = "reporter", "reporter", ""
    adata.var_names = names
    how = {"model": model, "fine_tune": fine_tune, "max_epochs": 1 if fine_tune else None}
    fitted = sf.tl.predict_perturbation(adata, **KEYS, perturbations=f"{a}+{b}", return_fitted=True, **how)
    profiles = adata.uns["perturbation"]["profiles"]
    counts, guides = screen.X.toarray(), screen.obs["guide"].to_numpy()
    log = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    measured = log[guides == f"{a}+{b}"].mean(0) - log[guides == "ctrl"].mean(0)
    np.testing.assert_allclose(profiles.layers["change"][0, ANSWERS], measured[ANSWERS], rtol=0.25, atol=0.1)
    by = np.full(screen.n_vars, "network" if fine_tune else "measured responses", dtype=object)
    by[ANSWERS] = "measured responses"
    assert profiles.var["predicted_by"].tolist() == by.tolist()
    fitted.save(tmp_path)
    # Columns of one name are matched by their order, which stays.
    order = np.arange(adata.n_vars)[::-1].copy()
    order[np.asarray(names)[order] == "reporter"] = np.flatnonzero(np.asarray(names) == "reporter")
    more = adata[:, order].copy()
    sf.tl.predict_perturbation(more, perturbations=f"{a}+{b}", model=tmp_path, device="cpu")
    again = more.uns["perturbation"]["profiles"]
    assert again.var_names.tolist() == profiles.var_names.tolist()
    np.testing.assert_allclose(again.X, profiles.X, atol=1e-5)


def test_perturbed_genes_that_the_model_does_not_know_are_counted(screen: AnnData) -> None:
    a, b = screen.var_names[:2]
    model = sf.model.CellPLM(genes=screen.var_names.delete(1), **TINY)
    adata = screen.copy()
    sf.tl.predict_perturbation(adata, **KEYS, perturbations=[a, f"{a}+{b}"], model=model)
    assert adata.uns["perturbation"]["profiles"].obs["n_unknown"].tolist() == [0, 1]
