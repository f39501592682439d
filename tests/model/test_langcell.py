"""What LangCell's embedding may depend on, and that saved weights are the same weights."""

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

import scfoundry as sf
from scfoundry.model.langcell import _inference
from scfoundry.model.langcell._config import LangCellConfig
from scfoundry.model.langcell._encoders import TextEncoder
from scfoundry.model.langcell._tokenizer import learn_vocabulary

TINY = {
    "n_hidden": 32, "n_layers": 2, "n_heads": 4, "n_intermediate": 64, "n_text_hidden": 32, "n_text_layers": 1,
    "n_text_heads": 4, "n_text_intermediate": 64, "n_latent": 16, "max_length": 24, "max_text_length": 16,
    "text_vocabulary": learn_vocabulary(["cell type: b cell", "cell type: monocyte"], 100),
}  # fmt: skip
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def adata(make_adata):
    return make_adata()


@pytest.fixture
def model(make_adata):
    return sf.model.LangCell(genes=sf.pp.gene_medians(make_adata(200, seed=3)), **TINY)


def embed(model, adata, **kwargs):
    return model.get_latent_representation(adata, device="cpu", **kwargs)


def test_cls_is_the_same_beside_all_states(model):
    tokens = torch.randint(2, 40, (4, 12))
    present = torch.arange(12) < torch.tensor([[12], [12], [7], [3]])
    with torch.no_grad():
        expected = model.module.eval().project_cells(model.module.cell(tokens, present))
        torch.testing.assert_close(model.module(tokens, present), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_do_not_matter(model, adata, batch_size):
    np.testing.assert_allclose(embed(model, adata, batch_size=batch_size), embed(model, adata), **CLOSE)


def test_blocks_do_not_matter(model, adata, monkeypatch):
    whole = embed(model, adata)
    monkeypatch.setattr(_inference, "CELLS_PER_BLOCK", 11)
    np.testing.assert_allclose(embed(model, adata), whole, **CLOSE)


def test_order_of_genes_and_further_genes(model, adata):
    expected = embed(model, adata)
    order = np.random.default_rng(0).permutation(adata.n_vars)
    np.testing.assert_array_equal(embed(model, adata[:, order].copy()), expected)
    extra = ad.AnnData(sparse.random(adata.n_obs, 5, 0.5, "csr", random_state=0).ceil())
    extra.obs_names, extra.var_names = adata.obs_names, [f"ENSG{i:011d}" for i in range(5)]
    np.testing.assert_array_equal(embed(model, ad.concat([extra, adata], axis=1)), expected)


def test_order_of_cells(model, adata):
    order = np.random.default_rng(0).permutation(adata.n_obs)
    np.testing.assert_allclose(embed(model, adata[order].copy()), embed(model, adata)[order], **CLOSE)


def test_array_types(model, adata, as_array):
    stored = ad.AnnData(as_array(adata.X.toarray()), obs=adata.obs, var=adata.var)
    np.testing.assert_allclose(embed(model, stored), embed(model, adata), **CLOSE)


@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_dtypes(model, make_adata, dtype):
    np.testing.assert_array_equal(embed(model, make_adata(dtype=dtype)), embed(model, make_adata()))


def test_backed_and_layer(model, adata, tmp_path):
    expected = embed(model, adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(embed(model, ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")), expected)
    adata.layers["counts"] = adata.X
    adata.X = adata.X[:, ::-1]
    np.testing.assert_array_equal(embed(model, adata, layer="counts"), expected)


def test_cells_without_genes_have_an_embedding(model, adata):
    expected = embed(model, adata)
    counts = adata.X.toarray()
    counts[[0, 5]] = 0
    adata.X = sparse.csr_matrix(counts)
    latent = embed(model, adata)
    assert np.isfinite(latent).all()
    np.testing.assert_allclose(latent[0], latent[5], **CLOSE)
    np.testing.assert_allclose(np.delete(latent, [0, 5], 0), np.delete(expected, [0, 5], 0), **CLOSE)


@pytest.mark.parametrize("way", ["save", "save_pretrained"])
def test_saved_models_are_bit_identical(model, adata, tmp_path, way):
    getattr(model, way)(tmp_path / "model")
    if way == "save":
        loaded = sf.model.LangCell.load(tmp_path / "model", adata=False, accelerator="cpu")
    else:
        loaded = sf.model.LangCell.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(loaded.genes.medians, model.genes.medians)
    np.testing.assert_array_equal(embed(loaded, adata), embed(model, adata))
    text = ["cell type: b cell"]
    np.testing.assert_array_equal(
        loaded.get_text_embedding(text, device="cpu"), model.get_text_embedding(text, device="cpu")
    )


@pytest.mark.parametrize(("width", "std"), [(32, 0.0884), (256, 0.03125), (768, 0.02)])
def test_initial_weights_suit_the_width(width, std):
    """At BERT's width they are BERT's; a narrower encoder starts with larger ones."""
    encoder = TextEncoder(LangCellConfig(**(TINY | {"n_text_hidden": width})))
    matrices = [module.weight for module in encoder.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    assert [matrix.std().item() for matrix in matrices] == pytest.approx(len(matrices) * [std], rel=0.15)


def test_bad_input_says_what_is_right(model, adata):
    without_medians = sf.model.LangCell(genes=adata.var_names, **TINY)
    with pytest.raises(ValueError, match=r"no medians.*genes=sf.pp.gene_medians\(adata\)"):
        embed(without_medians, adata)
    scaled = adata.copy()
    scaled.X = adata.X.toarray() - 1
    with pytest.raises(ValueError, match="negative"):
        embed(model, scaled)
    adata.var_names = [f"gene {i}" for i in range(adata.n_vars)]
    with pytest.raises(ValueError, match="gene"):
        embed(model, adata)
