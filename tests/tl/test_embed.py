import anndata as ad
import numpy as np
import pytest
import scanpy as sc

import scfoundry as sf


@pytest.fixture
def model(make_adata):
    """An untrained model that scales its input, so that counts and log-normalised values mean the same."""
    return sf.model.CellPLM(genes=make_adata().var_names, n_hidden=32, n_latent=6, library_size="cp10k")


@pytest.fixture
def adata(make_adata):
    return make_adata()


def test_the_embedding_is_that_of_the_model(model, adata):
    sf.tl.embed(adata, model, device="cpu")
    np.testing.assert_array_equal(adata.obsm["X_cellplm"], model.get_latent_representation(adata, device="cpu"))


def test_arguments_left_at_none_are_not_recorded(model, adata):
    sf.tl.embed(adata, model, batch_key="batch", device="cpu")
    assert adata.uns["cellplm"]["params"] == {"batch_key": "batch", "precision": "auto"}


def test_one_line_tells_what_is_about_to_happen(model, adata, logged):
    sf.tl.embed(adata[:, :30].copy(), model, batch_key="batch", device="cpu")
    [line] = [message for message in logged if "cells in" in message]
    assert "untrained on cpu: 60 cells in 2 contexts, raw counts" in line
    assert "30 of 30 genes matched" in line


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


def normalised_only(adata):
    adata.X = adata.X * 7.31


def unplaced(adata):
    adata.obsm["spatial"][:3] = np.nan


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (normalised_only, {}, r"sf.tl.embed needs raw counts"),
        (unplaced, {"spatial_key": "spatial"}, r"3 of 60 cells .*missing or infinite coordinates"),
        (None, {"batch_key": "sample"}, r"no column 'sample'; its columns: 'batch', 'cell_type'"),
        (None, {"spatial_key": "xy"}, r"no 'xy'; its keys: 'spatial'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(model, adata, damage, arguments, message):
    if damage:
        damage(adata)
    before = set(adata.obsm), set(adata.uns)
    with pytest.raises(ValueError, match=message):
        sf.tl.embed(adata, model, **arguments)
    assert (set(adata.obsm), set(adata.uns)) == before


def test_scaled_example_data_are_refused_with_the_way_out(model):
    with pytest.raises(ValueError, match=r"adata = adata.raw.to_adata\(\)"):
        sf.tl.embed(sc.datasets.pbmc68k_reduced(), model)


@pytest.mark.parametrize("name", ["pbmc_3tech_1200", "lymph_node_visium", "starmap_mpfc_mouse"])
def test_real_data(shared_data, name):
    """Symbols and batches, a spatial section, and mouse genes that are found as orthologs."""
    adata = ad.read_h5ad(shared_data / f"{name}.h5ad")
    keys = {"pbmc_3tech_1200": {"batch_key": "batch"}, "lymph_node_visium": {"spatial_key": "spatial"}}
    sf.tl.embed(adata, device="cpu", **keys.get(name, {}))
    embedding = adata.obsm["X_cellplm"]
    assert np.isfinite(embedding).all()
    assert embedding.std(0).min() > 0
