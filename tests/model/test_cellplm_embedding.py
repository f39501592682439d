"""What the embedding may depend on, and what it may not."""

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.nn import chunk_store
from scfoundry.nn.chunk_store import ChunkStore

CLOSE = {"atol": 1e-5, "rtol": 0}


def embed(model, adata, **kwargs):
    return model.get_latent_representation(adata, device="cpu", **kwargs)


@pytest.fixture
def model(tiny_model):
    return tiny_model()


@pytest.fixture
def adata(make_adata):
    return make_adata()


@pytest.mark.parametrize("batch_size", [1, 7, 13, 1000])
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_chunks_do_not_matter(tiny_model, adata, latent, batch_size, batch_key):
    model = tiny_model(latent=latent)
    whole = embed(model, adata, batch_key=batch_key, batch_size=adata.n_obs)
    np.testing.assert_allclose(embed(model, adata, batch_key=batch_key, batch_size=batch_size), whole, **CLOSE)


def test_states_that_rest_on_disk_give_the_same(model, adata, monkeypatch):
    resident = embed(model, adata, batch_size=7)
    monkeypatch.setattr(chunk_store, "CPU_RESIDENT_BYTES", 0)
    np.testing.assert_allclose(embed(model, adata, batch_size=7), resident, **CLOSE)


def test_streaming_equals_the_module_on_the_whole_context(model, adata):
    from scfoundry.nn.counts import SparseCounts

    with torch.no_grad():
        whole = model.module(SparseCounts.from_csr(adata.X)).numpy()
    np.testing.assert_allclose(embed(model, adata, batch_size=11), whole, **CLOSE)


def test_array_types(model, adata, as_array):
    expected = embed(model, adata)
    stored = ad.AnnData(as_array(adata.X.toarray()), obs=adata.obs, var=adata.var)
    np.testing.assert_allclose(embed(model, stored, batch_size=9), expected, **CLOSE)


@pytest.mark.parametrize("dtype", ["int32", "uint16", "float64"])
def test_dtypes(model, make_adata, dtype):
    expected = embed(model, make_adata())
    np.testing.assert_array_equal(embed(model, make_adata(dtype=dtype)), expected)


def test_layer_is_read_instead_of_x(model, adata):
    expected = embed(model, adata)
    adata.layers["counts"] = adata.X
    adata.X = adata.X * 3
    np.testing.assert_array_equal(embed(model, adata, layer="counts"), expected)


def test_gene_order_and_extra_genes(model, adata):
    expected = embed(model, adata)
    order = np.random.default_rng(0).permutation(adata.n_vars)
    np.testing.assert_array_equal(embed(model, adata[:, order].copy()), expected)
    extra = ad.AnnData(sparse.random(adata.n_obs, 5, 0.5, "csr", random_state=0).ceil())
    extra.obs_names = adata.obs_names
    extra.var_names = [f"ENSG{i:011d}" for i in range(5)]
    np.testing.assert_array_equal(embed(model, ad.concat([extra, adata], axis=1)), expected)


def test_cell_order_and_contexts(model, adata):
    expected = embed(model, adata, batch_key="batch")
    order = np.random.default_rng(0).permutation(adata.n_obs)
    np.testing.assert_allclose(embed(model, adata[order].copy(), batch_key="batch"), expected[order], **CLOSE)
    first = (adata.obs["batch"] == "batch 0").to_numpy()
    np.testing.assert_allclose(embed(model, adata[first].copy()), expected[first], **CLOSE)


def test_other_cells_of_the_context_matter(model, adata):
    """Cells inform each other; if they did not, the encoder would be idle."""
    together = embed(model, adata)
    apart = embed(model, adata, batch_key="batch")
    assert np.abs(together - apart).max() > 1e-3


def test_indices_choose_rows_of_the_whole(model, adata):
    expected = embed(model, adata)
    np.testing.assert_array_equal(embed(model, adata, indices=[5, 2]), expected[[5, 2]])


def test_views_and_backed_files(model, adata, tmp_path):
    part = adata[10:50, ::-1]
    expected = embed(model, part.copy())
    np.testing.assert_array_equal(embed(model, part), expected)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(embed(model, backed), embed(model, adata))
    np.testing.assert_allclose(
        embed(model, backed, batch_key="batch", batch_size=6), embed(model, adata, batch_key="batch"), **CLOSE
    )


def test_positions_need_coordinates_and_only_their_proportions(tiny_model, adata):
    model = tiny_model(positions="sinusoid")
    flat, placed = embed(model, adata), embed(model, adata, spatial_key="spatial")
    assert np.abs(flat - placed).max() > 1e-3
    adata.obsm["spatial"] = adata.obsm["spatial"] * 2.5 + 400
    np.testing.assert_allclose(embed(model, adata, spatial_key="spatial"), placed, **CLOSE)


def test_weights_without_positions_say_that_coordinates_have_no_effect(tiny_model, adata, caplog, monkeypatch):
    monkeypatch.setattr("scfoundry._settings.logger.propagate", True)
    model = tiny_model(positions="none")
    np.testing.assert_array_equal(embed(model, adata, spatial_key="spatial"), embed(model, adata))
    assert "the coordinates have no effect" in caplog.text


def test_samples_without_coordinates_stand_beside_spatial_ones(tiny_model, adata):
    model = tiny_model(positions="sinusoid")
    alone = embed(model, adata, batch_key="batch")
    second = (adata.obs["batch"] == "batch 1").to_numpy()
    adata.obsm["spatial"][second] = np.nan
    mixed = embed(model, adata, batch_key="batch", spatial_key="spatial")
    np.testing.assert_allclose(mixed[second], alone[second], **CLOSE)
    assert np.abs(mixed[~second] - alone[~second]).max() > 1e-3


def test_released_noise_only_on_request(tiny_model, adata):
    calm, noisy = tiny_model(latent="gmvae"), tiny_model(latent="gmvae", latent_embedding="gumbel")
    cells, cpu = Cells.of(adata, calm.genes, caller="a test"), Compute.resolve("cpu")
    np.testing.assert_array_equal(calm.embed(cells, cpu, rng=1), calm.embed(cells, cpu, rng=2))
    np.testing.assert_array_equal(noisy.embed(cells, cpu, rng=1), noisy.embed(cells, cpu, rng=1))
    assert np.abs(noisy.embed(cells, cpu, rng=1) - noisy.embed(cells, cpu, rng=2)).max() > 1e-3


def test_bfloat16_is_close(model, adata):
    full, half = embed(model, adata), embed(model, adata, precision="bfloat16")
    assert np.corrcoef(full.ravel(), half.ravel())[0, 1] > 0.999


def test_an_empty_cell_gets_a_finite_embedding(model, adata):
    counts = adata.X.toarray()
    counts[3] = 0
    adata.X = sparse.csr_matrix(counts)
    assert np.isfinite(embed(model, adata)).all()


def test_chunk_store_gives_back_what_was_put_in():
    device = torch.device("cpu")
    chunks = [torch.randn(4, 3), torch.randn(4, 3), torch.randn(2, 3)]
    for on_disk in (False, True):
        store = ChunkStore(device, on_disk=on_disk)
        for chunk in chunks:
            store.append(chunk)
        store[1] = -chunks[1]
        assert len(store) == 3
        torch.testing.assert_close(store[1], -chunks[1])
        torch.testing.assert_close(store[2], chunks[2])
        store.close()


def test_inference_does_not_register_the_data(model, adata):
    known = set(sf.model.CellPLM._setup_adata_manager_store)
    before = adata.copy()
    embed(model, adata, batch_key="batch")
    assert set(sf.model.CellPLM._setup_adata_manager_store) == known
    assert adata.uns == before.uns
    assert list(adata.obs) == list(before.obs)
