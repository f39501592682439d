"""Attention between genes: ranks by their definition, every cell counted once, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from scfoundry._device import Compute
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.cells import Cells
from scfoundry.nn.attention_factors import GeneAttention
from scfoundry.tasks.gene_network.genes import expressed_genes, named_genes
from scfoundry.tasks.gene_network.network import gene_network
from scfoundry.tasks.gene_network.ranks import rank_normalised

CPU = Compute.resolve("cpu")


class Attends:
    """A model whose genes attend to each other by fixed factors and their counts; batches are padded by ``padding``."""

    n_layers, n_heads, width = 2, 3, 4

    def __init__(self, genes, *, batch_size=5, padding=0):
        self.genes, self.provenance = GeneVocabulary(genes), {"weights": "attends"}
        rng = np.random.default_rng(0)
        self.factors = torch.from_numpy(rng.normal(size=(2, self.n_layers, len(genes), self.n_heads, self.width)))
        self.batch_size, self.padding = batch_size, padding

    def factors_of(self, layer, genes, counts):
        queries, keys = self.factors[:, layer, genes]
        return queries * torch.from_numpy(np.log1p(counts))[:, None, None], keys

    def embed(self, cells, compute):
        return cells.read().toarray()

    def gene_attention(self, cells, layers, compute):
        counts = cells.read()
        for start in range(0, cells.n_obs, self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, cells.n_obs))
            length = 1 + np.diff(counts[rows].indptr).max() + self.padding
            genes = torch.full((len(rows), length), -1)
            for layer in layers:
                # What stands at <cls> and at padding would win every comparison.
                queries, keys = torch.full((2, len(rows), self.n_heads, length, self.width), 1e3).double()
                for i, row in enumerate(rows):
                    own = counts[row].indices
                    here = slice(1, 1 + len(own))
                    genes[i, here] = torch.from_numpy(own.astype(np.int64))
                    q, k = self.factors_of(layer, own, counts[row].data)
                    queries[i, :, here], keys[i, :, here] = q.transpose(0, 1), k.transpose(0, 1)
                yield GeneAttention(rows, layer, genes, None, queries, keys)


def ranks_by_definition(logits):
    n = logits.shape[-1]
    others = [np.delete(np.arange(n), i) for i in range(n)]
    weights = np.zeros((n, n))
    for head in logits:
        by_row = np.zeros((n, n))
        for i in range(n):
            by_row[i, others[i]] = rankdata(head[i, others[i]])
        for j in range(n):
            weights[others[j], j] += (rankdata(by_row[others[j], j]) - 0.5) / (n - 1) / len(logits)
    return weights


def by_definition(model, adata, genes, codes, layer):
    """Mean over the cells of every group, pair by pair."""
    total, n_cells = np.zeros((2, codes.max() + 1, len(genes), len(genes)))
    counts = adata.X.toarray()
    for row, code in enumerate(codes):
        own = np.flatnonzero(counts[row, genes])
        if code >= 0 and len(own) > 1:
            q, k = model.factors_of(layer, genes[own], counts[row, genes[own]])
            pairs = np.ix_([code], own, own)
            total[pairs] += ranks_by_definition(torch.einsum("ihd,jhd->hij", q, k).numpy())
            n_cells[pairs] += 1
    return total, n_cells


@pytest.mark.parametrize("decimals", [8, 0])
def test_ranks_are_those_of_rows_then_columns_with_ties_shared(decimals):
    logits = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0)).mul(2).round(decimals=decimals)
    before = logits.clone()
    weights = rank_normalised(logits).numpy()
    np.testing.assert_allclose(weights, ranks_by_definition(logits.numpy()), atol=1e-12)
    # A column has the mean 1/2.
    np.testing.assert_allclose(weights.sum(0) / 6, 0.5)
    assert torch.equal(logits, before)


def test_two_genes_say_nothing_of_each_other():
    np.testing.assert_array_equal(rank_normalised(torch.randn(2, 2, 2)).numpy(), [[0, 0.5], [0.5, 0]])


@pytest.mark.parametrize("layer", [0, -1])
def test_weights_are_means_over_all_cells_of_a_group_that_have_both_genes(make_adata, layer):
    adata = make_adata(30)
    model = Attends(adata.var_names)
    genes, codes = np.array([1, 4, 5, 8, 11, 20, 31]), adata.obs["cell_type"].cat.codes.to_numpy().astype(int)
    found = gene_network(model, Cells.of(adata, model.genes, caller="test"), genes, codes, 2, layer=layer, compute=CPU)
    total, n_cells = by_definition(model, adata, genes, codes, layer % 2)
    np.testing.assert_array_equal(found.n_cells, n_cells)
    np.testing.assert_allclose(found.weights[n_cells > 0], (total / n_cells)[n_cells > 0], atol=1e-12)
    assert np.isnan(found.weights[n_cells == 0]).all()


def test_every_cell_counts_the_first_of_a_group_too(make_adata):
    adata = make_adata(12)
    adata.X = np.ones(adata.shape, dtype=np.float32)
    model = Attends(adata.var_names)
    codes = np.repeat([0, 1, -1], 4)
    found = gene_network(model, Cells.of(adata, model.genes, caller="test"), np.arange(6), codes, 2, compute=CPU)
    assert (found.n_cells == 4).all()


@pytest.mark.parametrize("changed", [{"batch_size": 1}, {"batch_size": 30}, {"padding": 9}])
def test_batches_and_padding_play_no_part(make_adata, changed):
    adata = make_adata(30)
    genes, codes = np.arange(0, 40, 3), np.zeros(30, dtype=int)
    found = []
    for how in ({}, changed):
        model = Attends(adata.var_names, **how)
        cells = Cells.of(adata, model.genes, caller="test")
        found.append(gene_network(model, cells, genes, codes, 1, compute=CPU))
    np.testing.assert_array_equal(found[0].n_cells, found[1].n_cells)
    np.testing.assert_allclose(found[0].weights, found[1].weights, atol=1e-12)


def test_the_strongest_pairs_are_those_of_enough_cells_between_different_genes(make_adata):
    adata = make_adata(30)
    model = Attends(adata.var_names)
    cells, codes = Cells.of(adata, model.genes, caller="test"), np.zeros(30, dtype=int)
    found = gene_network(model, cells, np.arange(40), codes, 1, compute=CPU)
    ((rows, columns),) = found.strongest(20, min_cells=5)
    weights, n_cells = found.weights[0], found.n_cells[0]
    assert (n_cells[rows, columns] >= 5).all()
    assert (rows != columns).all()
    allowed = np.where((n_cells >= 5) & ~np.eye(40, dtype=bool), weights, -1)
    np.testing.assert_allclose(weights[rows, columns], np.sort(allowed.ravel())[::-1][:20], rtol=1e-6)


def test_a_layer_that_is_not_there_is_refused(make_adata):
    adata = make_adata(10)
    model = Attends(adata.var_names)
    cells = Cells.of(adata, model.genes, caller="test")
    with pytest.raises(ValueError, match=r"'attends' has 2 layers, 0 to 1; got encoder_layer=2"):
        gene_network(model, cells, np.arange(4), np.zeros(10, dtype=int), 1, layer=2, compute=CPU)


# ---- genes ---------------------------------------------------------------------------------------------------------


def test_genes_of_a_network_vary_and_enough_cells_express_them(make_adata):
    adata = make_adata(30)
    cells = Cells.of(adata, GeneVocabulary(adata.var_names), caller="test")
    genes = expressed_genes(cells, 15, min_cells=12, caller="f")
    assert len(genes) == 15
    assert (np.asarray((adata.X > 0).sum(0)).ravel()[genes] >= 12).all()
    with pytest.raises(ValueError, match=r"f: 0 genes .* expressed by 31 of the 30 cells.*min_cells=1"):
        expressed_genes(cells, 15, min_cells=31, caller="f")


def test_genes_are_found_by_any_name(make_adata):
    adata = make_adata(10)
    vocabulary = GeneVocabulary(adata.var_names)
    cells = Cells.of(adata, vocabulary, caller="test")
    names = [vocabulary.symbols[7], adata.var_names[2]]
    np.testing.assert_array_equal(named_genes(cells, names, vocabulary, caller="f"), [2, 7])


WRONG = {
    "unknown": (["CD3E", "NOT_A_GENE"], r"2 of the 2 genes are not measured in adata.*'CD3E', 'NOT_A_GENE'"),
    "twice": ([0, 1, 1], r"2 of the 3 genes are named more than once"),
    "one": ([0], r"at least 2 genes; got 1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_genes_that_cannot_be_used_are_refused(make_adata, wrong):
    adata = make_adata(10)
    names, message = WRONG[wrong]
    vocabulary = GeneVocabulary([*adata.var_names, "ENSG00000198851"])
    cells = Cells.of(adata, vocabulary, caller="test")
    asked = [adata.var_names[name] if isinstance(name, int) else name for name in names]
    with pytest.raises(ValueError, match=message):
        named_genes(cells, asked, vocabulary, caller="f")
