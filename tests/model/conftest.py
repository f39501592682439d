import pytest

import scfoundry as sf

TINY = {"n_hidden": 32, "n_layers": 2, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}


@pytest.fixture(params=["vae", "gmvae"])
def latent(request):
    return request.param


@pytest.fixture
def tiny_model(make_adata):
    """An untrained CellPLM over the genes of `make_adata`, for any AnnData."""

    def build(**config):
        return sf.model.CellPLM(genes=make_adata().var_names, **(TINY | config))

    return build


@pytest.fixture
def trainable(make_adata):
    """A CellPLM registered on four small samples."""

    def build(adata=None, *, layer=None, spatial_key=None, seed=0, **config):
        adata = make_adata(80, n_batches=4) if adata is None else adata
        sf.model.CellPLM.setup_anndata(adata, layer=layer, batch_key="batch", spatial_key=spatial_key)
        return sf.model.CellPLM(adata, seed=seed, **(TINY | config))

    return build


@pytest.fixture
def quick():
    """Arguments of a training that takes a moment."""
    return {"max_epochs": 2, "lr": 1e-3, "warmup_steps": 2, "validation_size": 0.25, "accelerator": "cpu"}
