"""What LangCell's embedding may depend on, and that saved weights are the same weights."""

import logging

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.matrix.cells import Cells
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


def test_blocks_do_not_matter(model, adata, monkeypatch):
    whole = embed(model, adata)
    monkeypatch.setattr(_inference, "CELLS_PER_BLOCK", 11)
    np.testing.assert_allclose(embed(model, adata), whole, **CLOSE)


def test_cells_without_genes_have_an_embedding(model, adata):
    expected = embed(model, adata)
    counts = adata.X.toarray()
    counts[[0, 5]] = 0
    adata.X = sparse.csr_matrix(counts)
    latent = embed(model, adata)
    assert np.isfinite(latent).all()
    np.testing.assert_allclose(latent[0], latent[5], **CLOSE)
    np.testing.assert_allclose(np.delete(latent, [0, 5], 0), np.delete(expected, [0, 5], 0), **CLOSE)


@pytest.mark.parametrize(("width", "std"), [(32, 0.0884), (256, 0.03125), (768, 0.02)])
def test_initial_weights_suit_the_width(width, std):
    """At BERT's width they are BERT's; a narrower encoder starts with larger ones."""
    encoder = TextEncoder(LangCellConfig(**(TINY | {"n_text_hidden": width})))
    matrices = [module.weight for module in encoder.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    assert [matrix.std().item() for matrix in matrices] == pytest.approx(len(matrices) * [std], rel=0.15)


TEXTS = [Label(name, (f"cell type: {name}",)) for name in ("b cell", "monocyte", "t cell")]


def scores(model, adata, labels=TEXTS):
    return model.score_texts(Cells.of(adata, model.genes, caller="test"), labels, Compute.resolve("cpu"))


def test_the_record_says_what_of_the_mixture_took_effect(model, adata):
    assert scores(model, adata).params == {"alpha": 0.2, "top_k": 3, "mixture": "corrected"}
    assert scores(model.copy(alpha=0.5, match_top_k=2, mixture="released"), adata).params == {
        "alpha": 0.5, "top_k": 2, "mixture": "released",
    }  # fmt: skip
    assert scores(model.copy(match_top_k=9), adata).params["top_k"] == 3


def test_of_similarity_alone_nothing_is_matched(model, adata):
    alone = scores(model.copy(alpha=1.0), adata)
    assert alone.matching is None
    assert alone.params["top_k"] == 0
    expected = torch.from_numpy(alone.similarity / model.config.temperature).softmax(1)
    np.testing.assert_allclose(alone.probabilities, expected, atol=1e-6)


def test_only_the_most_similar_texts_are_matched(model, adata):
    few, every = scores(model.copy(match_top_k=2), adata), scores(model, adata)
    matched = ~np.isnan(few.matching)
    assert (matched.sum(1) == 2).all()
    np.testing.assert_allclose(few.matching[matched], every.matching[matched], atol=1e-6)
    np.testing.assert_array_equal(np.where(matched, np.inf, few.similarity).argmin(1), few.similarity.argmin(1))


def test_the_mixture_is_a_choice_at_loading(model, adata, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = sf.model.LangCell.from_pretrained(tmp_path, alpha=0.7, match_top_k=1)
    assert scores(loaded, adata).params == {"alpha": 0.7, "top_k": 1, "mixture": "corrected"}


def test_markers_are_refused_with_a_model_that_can_use_them(model):
    with pytest.raises(ValueError, match=r"cannot use markers, given for 'b cell'.*model=\"cellnamer\""):
        model.check_labels([Label("b cell", ("b cell",), markers=("ENSG00000156738",))])


def test_medians_are_computed_for_the_genes_given(adata, caplog):
    counts = adata.X.toarray()
    counts[:, 7] = 0
    adata.X, adata.obs["text"] = sparse.csr_matrix(counts), "a cell"
    wanted = adata.var_names[19:4:-1]
    sf.model.LangCell.setup_anndata(adata, text_keys="text")
    with caplog.at_level(logging.INFO, logger="scfoundry"):
        model = sf.model.LangCell(adata, genes=wanted, **{k: v for k, v in TINY.items() if k != "text_vocabulary"})
    assert list(model.genes.ids) == [gene for gene in wanted if gene != adata.var_names[7]]
    every = sf.pp.gene_medians(adata)
    np.testing.assert_array_equal(model.genes.medians, every.medians[every.index_of(model.genes.ids)])
    assert "1 of 15 genes are left out" in caplog.text


def test_a_vocabulary_without_medians_says_where_they_come_from(adata):
    without_medians = sf.model.LangCell(genes=adata.var_names, **TINY)
    with pytest.raises(ValueError, match=r"no medians.*genes=sf.pp.gene_medians\(adata\)"):
        embed(without_medians, adata)
