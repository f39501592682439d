"""What the embedding may depend on, and what it may not."""

import numpy as np
import pytest
import torch

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


def test_states_that_rest_on_disk_give_the_same(model, adata, monkeypatch):
    resident = embed(model, adata, batch_size=7)
    monkeypatch.setattr(chunk_store, "CPU_RESIDENT_BYTES", 0)
    np.testing.assert_allclose(embed(model, adata, batch_size=7), resident, **CLOSE)


def test_streaming_equals_the_module_on_the_whole_context(model, adata):
    from scfoundry.nn.counts import SparseCounts

    with torch.no_grad():
        whole = model.module(SparseCounts.from_csr(adata.X)).numpy()
    np.testing.assert_allclose(embed(model, adata, batch_size=11), whole, **CLOSE)


def test_a_context_is_the_same_alone(model, adata):
    expected = embed(model, adata, batch_key="batch")
    first = (adata.obs["batch"] == "batch 0").to_numpy()
    np.testing.assert_allclose(embed(model, adata[first].copy()), expected[first], **CLOSE)


def test_other_cells_of_the_context_matter(model, adata):
    """Cells inform each other; if they did not, the encoder would be idle."""
    together = embed(model, adata)
    apart = embed(model, adata, batch_key="batch")
    assert np.abs(together - apart).max() > 1e-3


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
