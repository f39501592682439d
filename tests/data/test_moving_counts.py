"""Counts are moved into a model's gene order without a change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scfoundry.data.genes import GeneAlignment, GeneVocabulary


def random_block(rng, n_cells=20, n_vars=40, *, dtype=np.float32):
    values = rng.gamma(2, 50, size=(n_cells, n_vars)) * (rng.random((n_cells, n_vars)) < 0.4)
    return np.ceil(values).astype(dtype) if np.dtype(dtype).kind != "f" else values.astype(dtype)


@pytest.mark.parametrize("as_array", [sparse.csr_matrix, sparse.csr_array])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, np.float64, bool])
def test_apply_equals_the_dense_sum_over_columns(as_array, dtype):
    rng = np.random.default_rng(0)
    dense = random_block(rng, dtype=dtype)
    target = rng.integers(-1, 15, size=40).astype(np.int32)
    names, none = np.arange(40).astype(str).astype(object), np.empty(0, dtype=np.int64)
    alignment = GeneAlignment(target, np.full(40, "symbol"), "symbol", 15, names, none)
    expected = np.zeros((20, 15))
    for column, gene in enumerate(target):
        if gene >= 0:
            expected[:, gene] += dense[:, column]
    moved = alignment.apply(as_array(dense))
    assert isinstance(moved, sparse.csr_matrix)
    assert moved.dtype == np.float32
    assert moved.has_canonical_format
    np.testing.assert_allclose(moved.toarray(), expected, rtol=1e-6)


def test_order_of_the_input_cannot_change_a_bit():
    rng = np.random.default_rng(1)
    names = np.array(
        [f"g{i % 9}" for i in range(40)] + ["GAPDH-1-1", "GAPDH-1", "GAPDH", "MARCH1", "p53"], dtype=object
    )
    dense = random_block(rng, n_vars=len(names)) * np.float32(np.pi)
    vocabulary = GeneVocabulary([*(f"g{i}" for i in range(9)), "MARCHF1", "TP53", "GAPDH"])
    first = vocabulary.align(names).apply(sparse.csr_matrix(dense))
    for _ in range(5):
        order = rng.permutation(len(names))
        again = vocabulary.align(names[order]).apply(sparse.csr_matrix(dense[:, order]))
        for part in ("data", "indices", "indptr"):
            assert getattr(first, part).tobytes() == getattr(again, part).tobytes()


def test_apply_stores_no_zeros_and_leaves_its_input_alone():
    block = sparse.csr_matrix((np.array([0.0, 2.0, -2.0]), [0, 1, 2], [0, 3]), shape=(1, 3))
    before = block.copy()
    moved = GeneVocabulary(["g0", "g1"]).align(["g0", "g1", "g1"]).apply(block)
    assert moved.nnz == 0
    assert moved.shape == (1, 2)
    assert block.nnz == 3
    assert (block.data == before.data).all()


def test_apply_refuses_rows_of_another_data_set():
    with pytest.raises(ValueError, match=r"has 3 columns, but the alignment was made for 2.*vocabulary.align\(adata\)"):
        GeneVocabulary(["g0", "g1"]).align(["g0", "g1"]).apply(sparse.csr_matrix((1, 3)))
