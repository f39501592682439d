"""Bins of values, whether a cell's are counted, few, or many different ones."""

import numpy as np
import pytest
from scipy import sparse

from scfoundry.data.tokens.bins import bin_values, gene_keys

N_GENES = 700
KEYS = gene_keys(map(str, range(N_GENES)))
RNG = np.random.default_rng(0)
EXPRESSED = RNG.random((6, N_GENES)) < 0.7
COUNTS = RNG.poisson(RNG.gamma(0.5, 10, EXPRESSED.shape)) * EXPRESSED
VALUES = {
    "counts": COUNTS,
    "counts beyond those that are counted": COUNTS * 1001,
    "few distinct values": np.log1p(COUNTS * 0.37),
    "all distinct": RNG.lognormal(size=EXPRESSED.shape) * EXPRESSED,
}


@pytest.mark.parametrize("values", VALUES.values(), ids=list(VALUES))
@pytest.mark.parametrize("n_bins", [3, 51, 1000])
def test_bins_by_the_quantiles_of_numpy(values, n_bins):
    values = values.astype(np.float32)
    lowest, highest = np.zeros((2, *values.shape), dtype=int)
    for cell, low, high in zip(values.astype(float), lowest, highest, strict=True):
        edges = np.quantile(cell[cell > 0], np.linspace(0, 1, n_bins - 1))
        high[:] = np.searchsorted(edges, cell, "right") * (cell > 0)
        low[:] = np.minimum(np.searchsorted(edges, cell, "left") + 1, high)
    expected = {"low": lowest, "high": highest, "mid": (lowest + highest) // 2}
    matrix = sparse.csr_matrix(values)
    for ties, bins in expected.items():
        found = bin_values(matrix, n_bins=n_bins, ties=ties, keys=KEYS)
        np.testing.assert_array_equal(found, bins[matrix.nonzero()], err_msg=ties)
    drawn = bin_values(matrix, n_bins=n_bins, ties="random", keys=KEYS)
    assert ((lowest[matrix.nonzero()] <= drawn) & (drawn <= highest[matrix.nonzero()])).all()


def test_columns_that_are_left_out_have_no_part_in_the_quantiles():
    gene_of_column = np.arange(N_GENES, dtype=np.int32)
    gene_of_column[::3] = -1
    kept = gene_of_column >= 0
    matrix, smaller = sparse.csr_matrix(COUNTS), sparse.csr_matrix(COUNTS[:, kept])
    for ties in ("mid", "random"):
        bins = bin_values(matrix, n_bins=51, ties=ties, keys=KEYS, gene_of_column=gene_of_column)
        found = sparse.csr_matrix((bins, matrix.indices, matrix.indptr), shape=matrix.shape).toarray()
        alone = bin_values(smaller, n_bins=51, ties=ties, keys=KEYS[kept])
        expected = sparse.csr_matrix((alone, smaller.indices, smaller.indptr), shape=smaller.shape).toarray()
        np.testing.assert_array_equal(found[:, kept], expected)
        assert not found[:, ~kept].any()
