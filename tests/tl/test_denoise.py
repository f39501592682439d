from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from mudata import MuData
from scipy import sparse

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

QUICK: dict[str, Any] = {"max_epochs": 2, "device": "cpu"}
ZERO_SHOT: dict[str, Any] = {"fine_tune": False, "device": "cpu"}


@pytest.fixture
def model(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    """An untrained model that uses its nearest cells, too."""
    structure = {"n_hidden": 32, "n_layers": 1, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}
    return sf.model.CellPLM(genes=make_adata().var_names, neighbor_weight=0.3, **structure)


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata()


def slots(adata: AnnData) -> tuple[set[str], ...]:
    return set(adata.layers) - {None}, set(adata.obsm), set(adata.uns), set(adata.obs)


def test_writes_the_documented_slots_and_nothing_else(model: sf.model.CellPLM, adata: AnnData, tmp_path: Path) -> None:
    before = adata.copy()
    assert sf.tl.denoise(adata, model, batch_key="batch", **QUICK) is None
    assert adata.layers["denoised"].shape == adata.shape
    assert adata.layers["denoised"].dtype == np.float32
    assert slots(adata) == ({"denoised"}, set(before.obsm), {"denoised"}, set(before.obs))
    assert (adata.X != before.X).nnz == 0
    adata.write_h5ad(tmp_path / "cells.h5ad")
    uns = ad.read_h5ad(tmp_path / "cells.h5ad").uns["denoised"]
    assert uns["params"]["batch_key"] == "batch"
    assert uns["params"]["rng"] == 0
    assert uns["scale"] == "expected counts at the cell's own depth"
    assert uns["validation"]["epochs"] == 2
    assert {"weights", "citation", "versions", "genes"} <= set(uns["provenance"])
    assert len(uns["not_denoised"]) == 0


def test_both_readings(model: sf.model.CellPLM, adata: AnnData) -> None:
    sf.tl.denoise(adata, model, **ZERO_SHOT)
    sf.tl.denoise(adata, model, given_detected=True, key_added="given", **ZERO_SHOT)
    plain, given = adata.layers["denoised"].astype(float), adata.layers["given"]
    np.testing.assert_allclose(plain.sum(1), np.asarray(adata.X.sum(1)).ravel(), rtol=1e-4)
    assert given.min() >= 1
    assert (given >= plain - 1e-4).all()
    np.testing.assert_allclose(given, plain / -np.expm1(-plain), rtol=1e-3)
    assert "given detection" in adata.uns["given"]["scale"]


def test_without_fine_tuning_a_model_stays_as_it_is(model: sf.model.CellPLM, adata: AnnData) -> None:
    sf.tl.denoise(adata, model, **ZERO_SHOT)
    np.testing.assert_array_equal(adata.layers["denoised"], model.denoise(adata, device="cpu"))
    assert "validation" not in adata.uns["denoised"]


def test_the_seed_decides(model: sf.model.CellPLM, adata: AnnData) -> None:
    first, same, other = (sf.tl.denoise(adata, model, rng=rng, copy=True, **QUICK) for rng in (3, 3, 4))
    np.testing.assert_array_equal(first.layers["denoised"], same.layers["denoised"])
    assert np.abs(first.layers["denoised"] - other.layers["denoised"]).max() > 0


def test_the_order_of_cells_and_genes_plays_no_part(model: sf.model.CellPLM, adata: AnnData) -> None:
    rng = np.random.default_rng(0)
    shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    for cells in (adata, shuffled):
        sf.tl.denoise(cells, model, batch_key="batch", **QUICK)
    moved = shuffled[adata.obs_names, adata.var_names].layers["denoised"]
    np.testing.assert_allclose(moved, adata.layers["denoised"], rtol=2e-3, atol=1e-4)


def test_the_array_type_does_not_matter(model: sf.model.CellPLM, adata: AnnData, as_array: Callable) -> None:
    expected = model.denoise(adata, device="cpu")
    other = adata.copy()
    other.X = as_array(adata.X.toarray())
    sf.tl.denoise(other, model, **ZERO_SHOT)
    np.testing.assert_allclose(other.layers["denoised"], expected, rtol=1e-4, atol=1e-6)


def test_layers_views_and_files(model: sf.model.CellPLM, adata: AnnData, tmp_path: Path) -> None:
    expected = model.denoise(adata, device="cpu")
    adata.layers["counts"] = adata.X.copy()
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    sf.tl.denoise(adata, model, layer="counts", **ZERO_SHOT)
    np.testing.assert_array_equal(adata.layers["denoised"], expected)
    adata.X = adata.layers["counts"]
    del adata.layers["denoised"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    result = sf.tl.denoise(backed, model, copy=True, **ZERO_SHOT)
    np.testing.assert_allclose(result.layers["denoised"], expected, rtol=1e-5)
    assert "denoised" not in backed.layers
    with pytest.raises(ValueError, match=r"view of data on disk.*adata = adata.to_memory\(\)"):
        sf.tl.denoise(backed[:5], model)


def test_some_genes_make_a_table(model: sf.model.CellPLM, adata: AnnData) -> None:
    genes = adata.var_names[[5, 2]].tolist()
    expected = model.denoise(adata, device="cpu")
    sf.tl.denoise(adata, model, genes=genes, **ZERO_SHOT)
    table = adata.obsm["denoised"]
    assert list(table.columns) == genes
    assert table.index.equals(adata.obs_names)
    np.testing.assert_allclose(table, expected[:, [5, 2]], rtol=1e-6)
    assert "denoised" not in adata.layers


def test_genes_that_the_model_does_not_know_keep_their_counts(model: sf.model.CellPLM, adata: AnnData) -> None:
    adata.var_names = [*adata.var_names[:-2], "spike-in 1", "spike-in 2"]
    sf.tl.denoise(adata, model, given_detected=True, **ZERO_SHOT)
    np.testing.assert_array_equal(adata.layers["denoised"][:, -2:], adata.X[:, -2:].toarray())
    assert list(adata.uns["denoised"]["not_denoised"]) == ["spike-in 1", "spike-in 2"]


@pytest.mark.parametrize("given_detected", [False, True])
def test_empty_cells_stay_empty(model: sf.model.CellPLM, adata: AnnData, *, given_detected: bool) -> None:
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    sf.tl.denoise(adata, model, given_detected=given_detected, **QUICK)
    assert not adata.layers["denoised"][3].any()
    assert np.isfinite(adata.layers["denoised"]).all()
    assert adata.layers["denoised"][4].all()


def test_positions_are_read(model: sf.model.CellPLM, adata: AnnData) -> None:
    sf.tl.denoise(adata, model, **ZERO_SHOT)
    sf.tl.denoise(adata, model, spatial_key="spatial", key_added="placed", **ZERO_SHOT)
    assert np.abs(adata.layers["placed"] - adata.layers["denoised"]).max() > 0


def test_a_modality_of_mudata(model: sf.model.CellPLM, adata: AnnData) -> None:
    mdata = MuData({"rna": adata, "protein": ad.AnnData(np.ones((adata.n_obs, 3)), obs=adata.obs[[]])})
    sf.tl.denoise(mdata, model, **ZERO_SHOT)
    assert "denoised" in mdata.mod["rna"].layers


def test_an_interruption_leaves_the_data_as_they_were(
    model: sf.model.CellPLM, adata: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scfoundry.tasks.denoising.recovery.gene_rates", interrupt)
    before = slots(adata)
    with pytest.raises(KeyboardInterrupt):
        sf.tl.denoise(adata, model, **QUICK)
    assert slots(adata) == before


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
    for _ in range(2):
        model.denoise(adata)
    assert sum("CellPLM.denoise: 1 of 60 cells have no counts" in message for message in logged) == 2


def test_one_line_tells_what_is_about_to_happen(model: sf.model.CellPLM, adata: AnnData, logged: list[str]) -> None:
    sf.tl.denoise(adata, model, batch_key="batch", **QUICK)
    [line] = [message for message in logged if "cells in" in message]
    assert "untrained on cpu: 60 cells in 2 contexts, fine-tuned; 40 of 40 genes matched" in line


def test_then_scanpy_goes_on_as_usual(model: sf.model.CellPLM, adata: AnnData) -> None:
    sf.tl.denoise(adata, model, **ZERO_SHOT)
    sc.pp.normalize_total(adata, target_sum=1e4, layer="denoised")
    sc.pp.log1p(adata, layer="denoised")
    assert np.isfinite(adata.layers["denoised"]).all()


def log_normalised(adata: AnnData) -> None:
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)


def negative(adata: AnnData) -> None:
    adata.X = adata.X.toarray() - 1.5


def nan(adata: AnnData) -> None:
    adata.X.data[3] = np.nan


def probe_names(adata: AnnData) -> None:
    adata.var_names = [f"probe_{i}_at" for i in range(adata.n_vars)]


def one_unknown_gene(adata: AnnData) -> None:
    adata.var_names = [*adata.var_names[:-1], "spike-in"]


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (log_normalised, {}, r"sf.tl.denoise needs raw counts.*log"),
        (negative, {}, r"sf.tl.denoise needs raw counts.*negative"),
        (nan, {}, r"sf.tl.denoise .*NaN"),
        (probe_names, {}, r"probe_0_at.*ENSG"),
        (None, {"layer": "counts"}, r"no 'counts'; layers of this AnnData: none"),
        (None, {"batch_key": "sample"}, r"no column 'sample'; its columns: 'batch', 'cell_type'"),
        (None, {"spatial_key": "xy"}, r"no 'xy'; its keys: 'spatial'"),
        (None, {"genes": ["CD3E"]}, r"1 of 1 genes are not in adata.var_names: 'CD3E'.*genes = \[g for g in genes"),
        (None, {"genes": "CD3E"}, r"genes is a list of names; got the text 'CD3E'"),
        (None, {"genes": []}, r"genes is empty"),
        (one_unknown_gene, {"genes": ["spike-in"]}, r"does not know 1 of 1 genes: 'spike-in'"),
        (None, {"max_epochs": 0}, r"max_epochs must be at least 1; got 0.*fine_tune=False"),
        (None, {"patience": 0}, r"patience is a number of epochs and at least 1; got 0"),
        (None, {"device": "cuda"}, r"device='cuda' was asked for"),
        (None, {"precision": "float8"}, r"precision must be one of 'auto', 'float32', 'bfloat16'"),
        (None, {"batch_size": 0}, r"batch_size must be at least 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_learned(
    model: sf.model.CellPLM,
    adata: AnnData,
    damage: Callable[[AnnData], None] | None,
    arguments: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def learn(*args: Any, **kwargs: Any) -> None:
        pytest.fail("training began")

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("scfoundry.tasks.denoising.denoiser.fine_tune", learn)
    if damage:
        damage(adata)
    before = slots(adata)
    with pytest.raises(ValueError, match=message):
        sf.tl.denoise(adata, model, **arguments)
    assert slots(adata) == before


def test_models_without_a_decoder_of_counts_are_refused(by_expression: sf.model.LangCell, adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r'cannot use LangCell, which has no decoder of counts.*model="cellplm"'):
        sf.tl.denoise(adata, by_expression)
