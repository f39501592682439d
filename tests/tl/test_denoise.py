from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

QUICK: dict[str, Any] = {"max_epochs": 2, "device": "cpu"}
CPU: dict[str, Any] = {"device": "cpu"}
ZERO_SHOT: dict[str, Any] = {"fine_tune": False} | CPU


@pytest.fixture
def model(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    structure = {"n_hidden": 32, "n_layers": 1, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}
    return sf.model.CellPLM(genes=make_adata().var_names, **structure)


@pytest.fixture
def denoiser(model: sf.model.CellPLM) -> sf.tasks.Denoiser:
    """An untrained decoder beside the nearest cells."""
    return sf.tasks.Denoiser(model, 0.3, np.zeros(len(model.genes), dtype=np.float32))


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata()


def predicted(denoiser: sf.tasks.Denoiser, adata: AnnData) -> NDArray[np.float32]:
    cells = Cells.of(adata, denoiser.model.genes, caller="a test")
    return denoiser.predict(cells, compute=Compute(torch.device("cpu")))


def slots(adata: AnnData) -> tuple[set[str], ...]:
    return set(adata.layers) - {None}, set(adata.obsm), set(adata.uns), set(adata.obs)


def test_the_record_says_what_the_values_are_and_how_good(model: sf.model.CellPLM, adata: AnnData) -> None:
    sf.tl.denoise(adata, model, batch_key="batch", **QUICK)
    uns = adata.uns["denoised"]
    assert uns["params"]["method"] in {"decoder and neighbours", "decoder", "neighbours"}
    assert uns["scale"] == "expected counts at the cell's own depth"
    assert uns["validation"]["epochs"] == 2
    assert len(uns["neighbors_alone"]) == 0


def test_both_readings(denoiser: sf.tasks.Denoiser, adata: AnnData) -> None:
    sf.tl.denoise(adata, denoiser, **CPU)
    sf.tl.denoise(adata, denoiser, given_detected=True, key_added="given", **CPU)
    plain, given = adata.layers["denoised"].astype(float), adata.layers["given"]
    np.testing.assert_allclose(plain.sum(1), np.asarray(adata.X.sum(1)).ravel(), rtol=1e-4)
    assert given.min() >= 1
    assert (given >= plain - 1e-4).all()
    np.testing.assert_allclose(given, plain / -np.expm1(-plain), rtol=1e-3)
    assert "given detection" in adata.uns["given"]["scale"]


def test_without_fine_tuning_a_model_stays_as_it_is(model: sf.model.CellPLM, adata: AnnData) -> None:
    sf.tl.denoise(adata, model, **ZERO_SHOT)
    expected = predicted(sf.tasks.Denoiser.as_pretrained(model), adata)
    np.testing.assert_array_equal(adata.layers["denoised"], expected)
    assert "validation" not in adata.uns["denoised"]
    assert adata.uns["denoised"]["params"]["method"] == "decoder"


def test_the_seed_decides(model: sf.model.CellPLM, adata: AnnData) -> None:
    first, other = (sf.tl.denoise(adata, model, rng=rng, copy=True, **QUICK) for rng in (3, 4))
    assert np.abs(first.layers["denoised"] - other.layers["denoised"]).max() > 0


def test_some_genes_make_a_table(denoiser: sf.tasks.Denoiser, adata: AnnData) -> None:
    genes = adata.var_names[[5, 2]].tolist()
    expected = predicted(denoiser, adata)
    sf.tl.denoise(adata, denoiser, genes=genes, **CPU)
    table = adata.obsm["denoised"]
    assert list(table.columns) == genes
    assert table.index.equals(adata.obs_names)
    np.testing.assert_allclose(table, expected[:, [5, 2]], rtol=1e-6)
    assert "denoised" not in adata.layers


def test_genes_that_the_model_does_not_know_are_expected_from_the_nearest_cells(
    denoiser: sf.tasks.Denoiser, adata: AnnData
) -> None:
    adata.var_names = [*adata.var_names[:-2], "spike-in 1", ""]
    sf.tl.denoise(adata, denoiser, **CPU)
    sf.tl.denoise(adata, denoiser, given_detected=True, key_added="given", **CPU)
    plain, given = (adata.layers[key][:, -2:].astype(float) for key in ("denoised", "given"))
    np.testing.assert_allclose(given, plain / -np.expm1(-plain), rtol=1e-3)
    assert list(adata.uns["denoised"]["neighbors_alone"]) == ["spike-in 1", ""]
    sf.tl.denoise(adata, denoiser, genes=["spike-in 1", adata.var_names[0]], **CPU)
    np.testing.assert_allclose(adata.obsm["denoised"]["spike-in 1"], plain[:, 0], rtol=1e-5)
    assert list(adata.uns["denoised"]["neighbors_alone"]) == ["spike-in 1"]


def test_genes_that_the_model_knows_do_not_depend_on_the_others(denoiser: sf.tasks.Denoiser, adata: AnnData) -> None:
    adata.var_names = [*adata.var_names[:-2], "spike-in", "spike-in"]
    known = adata[:, :-2].copy()
    for data in (adata, known):
        sf.tl.denoise(data, denoiser, **CPU)
    np.testing.assert_allclose(adata.layers["denoised"][:, :-2], known.layers["denoised"], rtol=1e-6)
    sf.tl.denoise(adata, denoiser, genes=known.var_names.tolist(), key_added="some", **CPU)
    np.testing.assert_array_equal(adata.obsm["some"], known.layers["denoised"])


def test_hidden_counts_of_real_cells_come_back_of_genes_known_to_the_model_or_not(shared_data: Path) -> None:
    cells = ad.read_h5ad(shared_data / "pbmc3k.h5ad")[:800].copy()
    sf.pp.simulate_dropout(cells, rng=10)
    model = sf.model.load_pretrained("langcell")
    sf.tl.denoise(cells, model, fine_tune=False, layer="train", given_detected=True, device="cpu")
    known = model.genes.align(cells).target >= 0
    assert known.any()
    assert not known.all()

    def error(data: AnnData) -> float:
        hidden = data.layers["test_mask"]
        scores = sf.metrics.denoising(data.X, data.layers["denoised"], hidden, given_detected=True)["rmse"]
        assert scores["predicted"] < scores["count of 1"]
        return scores["predicted"]

    assert error(cells) < 1.05 * error(cells[:, known].copy())


@pytest.mark.parametrize("given_detected", [False, True])
def test_empty_cells_stay_empty(model: sf.model.CellPLM, adata: AnnData, *, given_detected: bool) -> None:
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    sf.tl.denoise(adata, model, given_detected=given_detected, **QUICK)
    assert not adata.layers["denoised"][3].any()
    assert np.isfinite(adata.layers["denoised"]).all()
    assert adata.layers["denoised"][4].all()


def test_positions_are_read(denoiser: sf.tasks.Denoiser, adata: AnnData) -> None:
    sf.tl.denoise(adata, denoiser, **CPU)
    sf.tl.denoise(adata, denoiser, spatial_key="spatial", key_added="placed", **CPU)
    assert np.abs(adata.layers["placed"] - adata.layers["denoised"]).max() > 0


def test_a_warning_is_said_once_in_the_words_of_the_verb(
    model: sf.model.CellPLM, adata: AnnData, logged: list[str]
) -> None:
    adata.X = sparse.csr_matrix(adata.X.toarray() * (np.arange(adata.n_obs) != 3)[:, None])
    adata.var_names = [*adata.var_names[:-1], f"{adata.var_names[0]}.2"]
    for key in ("denoised", "again"):
        sf.tl.denoise(adata, model, key_added=key, **QUICK)
        [empty] = [message for message in logged if "have no counts" in message]
        assert empty.startswith("sf.tl.denoise: 1 of 60 cells")
        assert sum("repeat the gene of another column" in message for message in logged) == 1
        logged.clear()


def test_one_line_tells_what_is_about_to_happen(model: sf.model.CellPLM, adata: AnnData, logged: list[str]) -> None:
    sf.tl.denoise(adata, model, batch_key="batch", **QUICK)
    [line] = [message for message in logged if "cells in" in message]
    assert "untrained on cpu, to be fitted: 60 cells in 2 contexts, raw counts; 40 of 40 genes matched" in line


def test_then_scanpy_goes_on_as_usual(denoiser: sf.tasks.Denoiser, adata: AnnData) -> None:
    sf.tl.denoise(adata, denoiser, **CPU)
    sc.pp.normalize_total(adata, target_sum=1e4, layer="denoised")
    sc.pp.log1p(adata, layer="denoised")
    assert np.isfinite(adata.layers["denoised"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_key": "sample"}, r"no column 'sample'; its columns: 'batch', 'cell_type'"),
        ({"spatial_key": "xy"}, r"no 'xy'; its keys: 'spatial'"),
        ({"genes": ["CD3E"]}, r"1 of 1 genes are not in adata.var_names: 'CD3E'.*genes = \[g for g in genes"),
        ({"genes": "CD3E"}, r"genes must be a list .*; got 'CD3E'. Pass a list: genes=\['CD3E'\]"),
        ({"genes": []}, r"genes is empty"),
        ({"max_epochs": 0}, r"max_epochs must be at least 1; got 0. Default: max_epochs=None"),
        ({"patience": 0}, r"patience must be at least 1; got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_learned(
    model: sf.model.CellPLM,
    adata: AnnData,
    arguments: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def learn(*args: Any, **kwargs: Any) -> None:
        pytest.fail("training began")

    monkeypatch.setattr("scfoundry.train.contexts.fine_tune", learn)
    before = slots(adata)
    with pytest.raises(ValueError, match=message):
        sf.tl.denoise(adata, model, **arguments)
    assert slots(adata) == before


# ---- models and fitted objects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["small_model", "reads_texts"])
def test_models_without_a_decoder_of_counts_smooth_over_the_nearest_cells(
    request: pytest.FixtureRequest, adata: AnnData, who: str
) -> None:
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    adata.var_names = [*adata.var_names[:-1], "spike-in"]
    fitted = sf.tl.denoise(adata, request.getfixturevalue(who), return_fitted=True, **QUICK)
    expected, record = adata.layers["denoised"][:, :-1], adata.uns["denoised"]
    np.testing.assert_allclose(expected.sum(1), np.asarray(adata.X[:, :-1].sum(1)).ravel(), rtol=1e-4)
    assert record["params"]["method"] == fitted.method == "neighbours"
    assert record["validation"]["n_hidden"] > 0
    assert record["validation"]["rmse_given_detected"] < 1
    sf.tl.denoise(adata, request.getfixturevalue(who), key_added="unfitted", **ZERO_SHOT)
    np.testing.assert_array_equal(adata.layers["unfitted"], adata.layers["denoised"])
    assert "validation" not in adata.uns["unfitted"]


def test_a_fitted_denoiser_is_returned_saved_and_used_again(
    model: sf.model.CellPLM, adata: AnnData, make_adata: Callable[..., AnnData], tmp_path: Path
) -> None:
    fitted = sf.tl.denoise(adata, model, return_fitted=True, **QUICK)
    assert fitted.validation == adata.uns["denoised"]["validation"]
    assert adata.uns["denoised"]["params"]["method"] == fitted.method
    np.testing.assert_array_equal(adata.layers["denoised"], predicted(fitted, adata))
    fitted.save(tmp_path / "denoiser")
    more = make_adata(50, seed=1)
    sf.tl.denoise(more, fitted, **CPU)
    for folder in (tmp_path / "denoiser", str(tmp_path / "denoiser")):
        sf.tl.denoise(more, folder, key_added="again", **CPU)
        np.testing.assert_array_equal(more.layers["again"], more.layers["denoised"])
        assert more.uns["again"]["validation"] == fitted.validation
        assert more.uns["again"]["provenance"]["weights"] == "untrained, fine-tuned"
        assert not more.uns["again"]["params"]["fine_tune"]


def test_a_fitted_denoiser_learns_no_more(denoiser: sf.tasks.Denoiser, adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"learns no more, so that max_epochs, rng would have no effect"):
        sf.tl.denoise(adata, denoiser, max_epochs=3, rng=1)


def test_a_copy_and_a_fitted_denoiser_are_not_returned_together(model: sf.model.CellPLM, adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"not both.*copied = adata\.copy\(\); fitted = sf\.tl\.denoise\(copied"):
        sf.tl.denoise(adata, model, copy=True, return_fitted=True)
