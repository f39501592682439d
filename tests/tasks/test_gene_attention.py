"""Attention of cells to genes: sums by their definition, and tests as scipy has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind

from scfoundry._device import Compute
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.cells import Cells
from scfoundry.nn.attention_factors import ClsAttention, GeneAttention, attention_of_cls
from scfoundry.tasks.gene_attention.moments import Moments, attention_moments
from scfoundry.tasks.gene_attention.ranking import rank_genes

CPU = Compute.resolve("cpu")


class Attends:
    """A model whose ``<cls>`` attends to genes by their counts and a weight of each, in batches with padding."""

    def __init__(self, genes, batch_size=5):
        self.genes, self.provenance = GeneVocabulary(genes), {"weights": "attends"}
        self.weights = np.random.default_rng(0).uniform(1, 2, len(genes))
        self.batch_size = batch_size

    def relative(self, counts):
        """Share times number of genes, NaN where there is none, (n, G)."""
        weights = np.where(counts > 0, np.log1p(counts) * self.weights, np.nan)
        return weights / np.nansum(weights, 1, keepdims=True) * (counts > 0).sum(1, keepdims=True)

    def embed(self, cells, compute):
        return cells.read().toarray()

    def cls_attention(self, cells, compute):
        counts = cells.read()
        for start in range(0, cells.n_obs, self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, cells.n_obs))
            block = counts[rows].toarray()
            n_columns = (block > 0).sum(1).max() + 2
            genes, weights = np.full((len(rows), n_columns), -1), np.full((len(rows), n_columns), 9.0)
            for i, row in enumerate(block):
                found = np.flatnonzero(row)
                genes[i, 1 : len(found) + 1] = found
                weights[i, 1 : len(found) + 1] = np.log1p(row[found]) * self.weights[found]
            yield ClsAttention.of(rows, torch.from_numpy(genes), torch.from_numpy(weights))


@pytest.fixture(scope="module")
def adata(make_adata):
    return make_adata(40, 30)


@pytest.fixture(scope="module")
def model(adata):
    return Attends(adata.var_names)


def of(model, adata, codes, n_codes=2):
    return attention_moments(model, Cells.of(adata, model.genes, caller="test"), codes, n_codes, compute=CPU)


def test_moments_are_those_of_the_cells_of_a_group_that_have_the_gene(model, adata):
    codes = np.random.default_rng(1).integers(-1, 2, adata.n_obs)
    found, relative = of(model, adata, codes), model.relative(adata.X.toarray())
    for code in range(2):
        values = relative[codes == code]
        np.testing.assert_array_equal(found.n_cells[code], (~np.isnan(values)).sum(0))
        np.testing.assert_allclose(found.total[code], np.nansum(values, 0), rtol=1e-5)
        np.testing.assert_allclose(found.squares[code], np.nansum(values**2, 0), rtol=1e-5)


def test_neither_batches_nor_the_order_of_cells_play_a_part(model, adata):
    codes = np.arange(adata.n_obs) % 2
    expected = of(model, adata, codes)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    for values, others in zip(expected, of(model, adata[order].copy(), codes[order]), strict=True):
        np.testing.assert_array_equal(values, others)
    for values, others in zip(expected, of(Attends(adata.var_names, 1), adata, codes), strict=True):
        np.testing.assert_allclose(values, others, rtol=1e-6)


def test_tests_are_those_of_welch_on_single_cells(model, adata):
    codes = np.arange(adata.n_obs) % 3
    ranking = rank_genes(of(model, adata, codes, 3), min_cells=1)
    relative = model.relative(adata.X.toarray())
    for code in range(3):
        own, rest = relative[codes == code], relative[codes != code]
        expected = ttest_ind(own, rest, equal_var=False, nan_policy="omit")
        np.testing.assert_allclose(ranking.statistic[code], expected.statistic, rtol=1e-3)
        np.testing.assert_allclose(ranking.p_values[code], expected.pvalue, rtol=1e-3)
        np.testing.assert_allclose(ranking.attention[code], np.nanmean(own, 0), rtol=1e-5)
        ratio = np.nanmean(own, 0) / np.nanmean(rest, 0)
        np.testing.assert_allclose(2 ** ranking.log2_ratio[code], ratio, rtol=1e-5)
        assert (ranking.q_values[code] >= ranking.p_values[code]).all()
        order = ranking.order("difference")[code]
        assert (np.diff(ranking.statistic[code][order]) <= 1e-6).all()


def test_genes_of_few_cells_are_left_out_and_come_last():
    n_cells = np.array([[5, 2, 5], [5, 5, 0]])
    total = n_cells * np.array([[1.0, 9, 2], [1, 1, 1]])
    squares = n_cells * np.array([[1.5, 90, 4.5], [1.5, 1.5, 1]])
    ranking = rank_genes(Moments(n_cells, total, squares), min_cells=3)
    np.testing.assert_array_equal(ranking.attention, [[1, np.nan, 2], [1, 1, np.nan]])
    assert ranking.order("attention")[0].tolist() == [2, 0, 1]
    # The third gene is in no cell of the others.
    np.testing.assert_array_equal(np.isnan(ranking.p_values), [[False, True, True], [False, False, True]])
    np.testing.assert_array_equal(np.isnan(ranking.q_values), np.isnan(ranking.p_values))


def test_attention_of_cls_is_the_mean_softmax_without_what_goes_elsewhere():
    rng = np.random.default_rng(0)
    queries, keys = torch.from_numpy(rng.normal(size=(2, 2, 3, 4, 5, 6)))  # layers, cells, heads, positions, width
    genes = torch.tensor([[-1, 3, 1, 0, 2], [-1, 2, 5, -1, -1], [-1, -1, -1, -1, -1]])
    present = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    layers = [
        GeneAttention(np.arange(3), i, genes, present, q, k) for i, (q, k) in enumerate(zip(queries, keys, strict=True))
    ]
    (found,) = attention_of_cls(layers, 2)
    logits = np.einsum("lbhd,lbhjd->lbhj", queries[:, :, :, 0], keys)
    for cell, n in ((0, 5), (1, 3)):
        weights = np.exp(logits[:, cell, :, :n])
        of_genes = (weights / weights.sum(-1, keepdims=True)).mean((0, 1))[1:]
        np.testing.assert_allclose(found.shares[cell, 1:n], of_genes / of_genes.sum(), rtol=1e-5)
    assert (found.shares[genes < 0] == 0).all()
