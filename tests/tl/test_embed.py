import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from mudata import MuData

import scfoundry as sf


@pytest.fixture
def model(make_adata):
    """An untrained model that scales its input, so that counts and log-normalised values mean the same."""
    return sf.model.CellPLM(genes=make_adata().var_names, n_hidden=32, n_latent=6, library_size="cp10k")


@pytest.fixture
def adata(make_adata):
    return make_adata()


def test_writes_the_documented_slots_and_nothing_else(model, adata):
    before = adata.copy()
    assert sf.tl.embed(adata, model, device="cpu") is None
    assert adata.obsm["X_cellplm"].shape == (adata.n_obs, 6)
    assert adata.obsm["X_cellplm"].dtype == np.float32
    assert set(adata.obsm) - set(before.obsm) == {"X_cellplm"}
    assert set(adata.uns) - set(before.uns) == {"cellplm"}
    assert list(adata.obs) == list(before.obs)
    assert (adata.X != before.X).nnz == 0
    np.testing.assert_array_equal(adata.obsm["X_cellplm"], model.get_latent_representation(before, device="cpu"))


def test_provenance_says_what_was_computed_with_what(model, adata, tmp_path):
    sf.tl.embed(adata, model, batch_key="batch", device="cpu")
    uns = adata.uns["cellplm"]
    assert uns["params"] == {"batch_key": "batch", "precision": "auto"}
    provenance = uns["provenance"]
    assert provenance["model"] == "cellplm"
    assert provenance["values"] == "raw counts"
    assert {"weights", "citation", "versions", "genes"} <= set(provenance)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad").uns["cellplm"]["provenance"]
    assert read["versions"]["scfoundry"] == sf.__version__


def test_key_added_and_copy(model, adata):
    result = sf.tl.embed(adata, model, key_added="mine", copy=True, device="cpu")
    assert "mine" in result.obsm
    assert "mine" in result.uns
    assert "mine" not in adata.obsm


def test_log_normalised_values_mean_the_same_as_counts(model, adata):
    sf.tl.embed(adata, model, device="cpu")
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sf.tl.embed(logged, model, device="cpu")
    np.testing.assert_allclose(logged.obsm["X_cellplm"], adata.obsm["X_cellplm"], atol=1e-4)


def test_one_line_tells_what_is_about_to_happen(model, adata, logged):
    sf.tl.embed(adata[:, :30].copy(), model, batch_key="batch", device="cpu")
    [line] = [message for message in logged if "cells in" in message]
    assert "untrained on cpu: 60 cells in 2 contexts, raw counts" in line
    assert "30 of 30 genes matched" in line


def test_a_modality_of_mudata(model, adata):
    protein = ad.AnnData(np.ones((adata.n_obs, 3)), obs=adata.obs[[]])
    mdata = MuData({"rna": adata, "protein": protein})
    sf.tl.embed(mdata, model, device="cpu")
    assert "X_cellplm" in mdata.mod["rna"].obsm
    with pytest.raises(ValueError, match=r"no modality 'atac'; it has 'rna', 'protein'"):
        sf.tl.embed(mdata, model, modality="atac")


def test_a_view_of_a_file_is_refused_and_a_copy_of_a_file_is_in_memory(model, adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"sf.tl.embed: adata is a view of data on disk.*adata = adata.to_memory\(\)"):
        sf.tl.embed(backed[:5], model)
    result = sf.tl.embed(backed, model, copy=True, device="cpu")
    sf.tl.embed(adata, model, device="cpu")
    np.testing.assert_allclose(result.obsm["X_cellplm"], adata.obsm["X_cellplm"], atol=1e-6)
    assert not result.isbacked
    assert "X_cellplm" not in backed.obsm


def test_symbols_and_the_default_weights(make_adata):
    adata = make_adata()
    by_id = sf.tl.embed(adata, copy=True, device="cpu")
    table = sf.datasets.human_genes()
    adata.var_names = table.loc[adata.var_names, "symbol"]
    by_symbol = sf.tl.embed(adata, copy=True, device="cpu")
    np.testing.assert_array_equal(by_id.obsm["X_cellplm"], by_symbol.obsm["X_cellplm"])


def test_then_scanpy_goes_on_as_usual(model, adata):
    sf.tl.embed(adata, model, device="cpu")
    sc.pp.neighbors(adata, use_rep="X_cellplm")
    assert adata.obsp["connectivities"].shape == (60, 60)


def negative(adata):
    adata.X = adata.X.toarray() - 1.5


def nan(adata):
    adata.X.data[3] = np.nan


def infinite(adata):
    adata.X.data[3] = np.inf


def normalised_only(adata):
    adata.X = adata.X * 7.31


def probe_names(adata):
    adata.var_names = [f"probe_{i}_at" for i in range(adata.n_vars)]


def unplaced(adata):
    adata.obsm["spatial"][:3] = np.nan


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (negative, {}, r"sf.tl.embed needs raw counts.*negative"),
        (nan, {}, r"sf.tl.embed .*NaN"),
        (infinite, {}, r"sf.tl.embed .*infinite"),
        (normalised_only, {}, r"sf.tl.embed needs raw counts"),
        (probe_names, {}, r"probe_0_at.*ENSG"),
        (unplaced, {"spatial_key": "spatial"}, r"3 of 60 cells .*missing or infinite coordinates"),
        (None, {"layer": "counts"}, r"no 'counts'; layers of this AnnData: none"),
        (None, {"batch_key": "sample"}, r"no column 'sample'; its columns: 'batch', 'cell_type'"),
        (None, {"spatial_key": "xy"}, r"no 'xy'; its keys: 'spatial'"),
        (None, {"device": "cuda"}, r"device='cuda' was asked for, but torch .* finds no such device"),
        (None, {"precision": "float8"}, r"precision must be one of 'auto', 'float32', 'bfloat16'"),
        (None, {"batch_size": 0}, r"batch_size must be at least 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(model, adata, damage, arguments, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if damage:
        damage(adata)
    before = set(adata.obsm), set(adata.uns)
    with pytest.raises(ValueError, match=message):
        sf.tl.embed(adata, model, **arguments)
    assert (set(adata.obsm), set(adata.uns)) == before


def test_scaled_example_data_are_refused_with_the_way_out(model):
    with pytest.raises(ValueError, match=r"adata = adata.raw.to_adata\(\)"):
        sf.tl.embed(sc.datasets.pbmc68k_reduced(), model)


def test_unknown_weights(adata):
    with pytest.raises(FileNotFoundError, match=r"No weights 'scgpt'.*cellplm-mini"):
        sf.tl.embed(adata, model="scgpt")


@pytest.mark.parametrize("name", ["pbmc_3tech_1200", "lymph_node_visium", "starmap_mpfc_mouse"])
def test_real_data(shared_data, name):
    """Symbols and batches, a spatial section, and mouse genes that are found as orthologs."""
    adata = ad.read_h5ad(shared_data / f"{name}.h5ad")
    keys = {"pbmc_3tech_1200": {"batch_key": "batch"}, "lymph_node_visium": {"spatial_key": "spatial"}}
    sf.tl.embed(adata, device="cpu", **keys.get(name, {}))
    embedding = adata.obsm["X_cellplm"]
    assert np.isfinite(embedding).all()
    assert embedding.std(0).min() > 0
