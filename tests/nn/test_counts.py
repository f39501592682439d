import numpy as np
import pytest
import torch
from scipy import sparse

from scfoundry.nn.counts import SparseCounts


@pytest.fixture
def dense():
    return np.random.default_rng(0).poisson(0.6, size=(7, 9)).astype("float32")


def to_dense(counts):
    out = torch.zeros(counts.n_cells, counts.n_genes)
    out[counts.rows, counts.genes] = counts.values
    return out.numpy()


def test_round_trip_and_totals(dense):
    counts = SparseCounts.from_csr(sparse.csr_matrix(dense))
    np.testing.assert_array_equal(to_dense(counts), dense)
    np.testing.assert_allclose(counts.totals(), dense.sum(1))


def test_take_keeps_the_order_asked_for_and_empty_cells(dense):
    dense[3] = 0
    counts = SparseCounts.from_csr(sparse.csr_matrix(dense))
    cells = torch.tensor([5, 3, 0])
    np.testing.assert_array_equal(to_dense(counts.take(cells)), dense[[5, 3, 0]])


def test_hidden_entries_are_zero(dense):
    hidden = np.random.default_rng(1).random(dense.shape) < 0.5
    counts = SparseCounts.from_csr(sparse.csr_matrix(dense)).without(torch.from_numpy(hidden))
    np.testing.assert_array_equal(to_dense(counts), np.where(hidden, 0, dense))


def test_library_size(dense):
    dense[2] = 0
    counts = SparseCounts.from_csr(sparse.csr_matrix(dense))
    np.testing.assert_allclose(to_dense(counts.log_normalised()), np.log1p(dense), rtol=1e-6)
    totals = np.maximum(dense.sum(1, keepdims=True), 1e-12)
    np.testing.assert_allclose(to_dense(counts.log_normalised("cp10k")), np.log1p(dense / totals * 1e4), rtol=1e-5)
