"""LangCell on standardised expression, from AnnData to probabilities."""

from __future__ import annotations

import logging

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import torch
from scipy import sparse

import scfoundry as sf
from scfoundry.data.labels import Label
from scfoundry.data.matrix.reader import CountsReader

GENES = [f"ENSG{i:011d}" for i in range(40)]
TYPES = ("CL:0000236", "CL:0000084", "CL:0000623", "CL:0000576")
LABELS = [Label("B cell", ("B cell",), "CL:0000236"), Label("T cell", ("T cell",), "CL:0000084")]


@pytest.fixture
def model() -> sf.model.LangCell:
    width = {"n_hidden": 8, "n_latent": 8, "n_buckets": 64, "n_text_hidden": 8}
    model = sf.model.LangCell(genes=GENES, cell_encoder="expression_mlp", types=TYPES, profiles=TYPES, **width)
    model.module.profiles.learn(torch.eye(4).repeat_interleave(10, 1) / 10)
    model.module.heads.profile_of_type.copy_(torch.eye(4))
    return model


def of(counts: np.ndarray) -> ad.AnnData:
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.var_names = GENES
    return adata


@pytest.fixture
def counts() -> np.ndarray:
    """B and T cells."""
    rates = 0.3 + 3 * np.eye(4).repeat(10, 1)[np.arange(60) % 2]
    return np.random.default_rng(0).poisson(rates)


@pytest.mark.parametrize("n_cells", [1, 5])
@pytest.mark.parametrize("rate", [0, 1], ids=["empty", "alike"])
def test_cells_that_do_not_differ_are_judged_all_the_same(model, n_cells: int, rate: int) -> None:
    result = model.zero_shot(of(np.full((n_cells, 40), rate)), LABELS, device="cpu")
    assert result.probabilities.shape == (n_cells, 2)
    np.testing.assert_allclose(result.probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.probabilities, result.probabilities[:1].repeat(n_cells, 0), rtol=1e-5)


def test_empty_cells_change_nothing_for_the_others(model, counts: np.ndarray) -> None:
    alone = model.zero_shot(of(counts), LABELS, device="cpu")
    among = model.zero_shot(of(np.vstack([counts, np.zeros((90, 40))])), LABELS, device="cpu")
    np.testing.assert_allclose(among.probabilities[:60], alone.probabilities, atol=1e-5)
    np.testing.assert_allclose(among.fit[:60], alone.fit, atol=1e-5)
    assert np.isfinite(among.probabilities).all()


def test_out_of_core_data_are_read_four_times_and_not_again_for_the_embedding(model, counts: np.ndarray) -> None:
    read: list[int] = []

    def counted(block: np.ndarray) -> np.ndarray:
        read.append(len(block))
        return block

    adata = of(counts)
    lazy = da.from_array(counts.astype(np.float32), chunks=(20, 40)).map_blocks(counted, dtype=np.float32)
    adata.X = lazy
    reader = CountsReader(adata, model.genes, caller="test")
    read.clear()
    result = model.zero_shot(reader, LABELS, batch_size=20, device="cpu")
    assert sum(read) == 4 * len(counts)
    np.testing.assert_allclose(
        result.probabilities, model.zero_shot(of(counts), LABELS, device="cpu").probabilities, atol=1e-5
    )
    read.clear()
    model.zero_shot(reader, LABELS, adapt=False, batch_size=20, device="cpu")
    assert sum(read) == len(counts)


def test_medians_are_computed_for_the_genes_given(counts: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    counts[:, 7] = 0
    adata = of(counts)
    adata.obs["text"] = "a cell"
    sf.model.LangCell.setup_anndata(adata, text_keys="text")
    with caplog.at_level(logging.INFO, logger="scfoundry"):
        model = sf.model.LangCell(
            adata, genes=GENES[19:4:-1], n_hidden=16, n_layers=1, n_text_hidden=16, n_text_layers=1
        )
    assert list(model.genes.ids) == [gene for gene in GENES[19:4:-1] if gene != GENES[7]]
    every = sf.pp.gene_medians(adata)
    np.testing.assert_array_equal(model.genes.medians, every.medians[every.index_of(model.genes.ids)])
    assert "1 of 15 genes are left out" in caplog.text
