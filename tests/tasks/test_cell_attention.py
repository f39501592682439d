"""The largest weights of cells and sums between groups, from any model whose cells attend to each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import attention_of

from scfoundry.data.genes import GeneVocabulary
from scfoundry.nn.attention_factors import AttentionFactors


class Attends:
    """A model whose cells attend to each other by their first genes."""

    n_layers = 2
    n_heads = 3

    def __init__(self, genes):
        self.genes, self.provenance = GeneVocabulary(genes), {"weights": "attends"}

    def embed(self, cells, compute):
        return cells.read().toarray()

    def attention_factors(self, cells, layer, compute):
        for context in cells.contexts:
            states = torch.from_numpy(cells.read(context.rows).toarray()[:, :12]).log1p() + 0.1 + layer % self.n_layers
            heads = states.view(len(states), self.n_heads, 4)
            size = compute.cells_at_once
            yield context.rows, (AttentionFactors(part, part / 100) for part in heads.split(size))


@pytest.fixture
def model(make_adata):
    return Attends(make_adata().var_names)


def test_weights_are_means_over_heads_of_the_layer_asked_for(model, make_adata):
    adata = make_adata(20)
    for layer in (0, -1):
        states = np.log1p(adata.X.toarray()[:, :12]) + 0.1 + layer % 2
        weights = attention_of(model, adata, scale="raw", layer=layer).weights.toarray()
        np.testing.assert_allclose(weights, states @ states.T / 300, rtol=1e-5)


def test_shares_sum_to_one_and_specific_weights_have_mean_one_for_the_cell_attended_to(model, make_adata):
    adata = make_adata(30)
    raw, shares, specific = (
        attention_of(model, adata, scale=scale).weights.toarray() for scale in ("raw", "shares", "specific")
    )
    np.testing.assert_allclose(shares, raw / raw.sum(1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(specific, shares / shares.mean(0), rtol=1e-4)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_the_largest_are_kept(model, make_adata, batch_size):
    adata = make_adata(30)
    everything = attention_of(model, adata).weights.toarray()
    kept = attention_of(model, adata, k=4, batch_size=batch_size).weights
    assert (np.diff(kept.indptr) == 4).all()
    assert kept.has_sorted_indices
    for row, all_of_row in zip(kept.toarray(), everything, strict=True):
        np.testing.assert_allclose(np.sort(row[row > 0]), np.sort(all_of_row)[-4:], rtol=1e-5)


def test_groups_are_summed_over_all_weights_and_compared_with_even_attention(model, make_adata):
    adata = make_adata(40, n_batches=2)
    everything = attention_of(model, adata, batch_key="batch").weights.toarray().astype(float)
    result = attention_of(model, adata, batch_key="batch", groupby="cell_type", k=1)
    member = np.eye(2)[adata.obs["cell_type"].cat.codes]
    together = adata.obs["batch"].to_numpy()[:, None] == adata.obs["batch"].to_numpy()
    even = together / together.sum(1, keepdims=True)
    np.testing.assert_allclose(result.observed, member.T @ everything @ member, rtol=1e-5)
    np.testing.assert_allclose(result.expected, member.T @ even @ member, rtol=1e-5)
    np.testing.assert_array_equal(result.n_pairs, member.T @ together @ member)


def test_cells_without_counts_are_in_no_group_and_keep_no_weight(model, make_adata):
    adata = make_adata(12)
    present = ~np.isin(np.arange(12), [3, 4])
    adata.X = adata.X.multiply(present[:, None]).tocsr()
    result = attention_of(model, adata, groupby="cell_type")
    np.testing.assert_array_equal(result.weights.toarray() > 0, np.outer(present, present))
    assert result.n_pairs.sum() == present.sum() ** 2


def test_a_layer_that_is_not_there_is_refused(model, make_adata):
    with pytest.raises(ValueError, match=r"'attends' has 2 encoder layers, 0 to 1; got encoder_layer=2"):
        attention_of(model, make_adata(10), layer=2)
