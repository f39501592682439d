"""The order of a cell's genes."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import sparse

from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.tokens import ranks as tokens
from scfoundry.data.tokens.ranks import FIRST_GENE, checksum, cls_token, rank_tokens, ranked_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

N_CELLS, N_GENES = 40, 700


def by_definition(counts: np.ndarray, medians: np.ndarray, max_length: int) -> list[list[int]]:
    """Sort (-ratio, gene) pairs, cell by cell."""
    ranked = []
    for cell in counts.astype(np.float32):
        pairs = sorted((-float(cell[gene]) / medians[gene], gene) for gene in np.flatnonzero(cell > 0))
        ranked.append([int(gene) + FIRST_GENE for _, gene in pairs[:max_length]])
    return ranked


def as_lists(ranked: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
    starts, ids = ranked
    return [ids[start:stop].tolist() for start, stop in itertools.pairwise(starts)]


@pytest.fixture
def rank() -> Callable[..., list[list[int]]]:
    """`rank_tokens` as lists."""
    return lambda counts, medians, **kwargs: as_lists(
        rank_tokens(sparse.csr_matrix(counts), np.asarray(medians), **{"max_length": N_GENES} | kwargs)
    )


RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(0.2, 10, size=(N_CELLS, N_GENES)))
COUNTS[7] = 0
COUNTS[-1] = 0
MEDIANS = {
    "like those of a corpus": RNG.lognormal(1, 0.6, N_GENES),
    "all equal: counts tie by the hundred": np.ones(N_GENES),
    "whole numbers: 2/2 ties with 3/3": RNG.integers(1, 6, N_GENES).astype(float),
    "equal in float32, not in float64": 1 + 1e-9 * RNG.permutation(N_GENES),
    "over many orders of magnitude": 10.0 ** RNG.uniform(-30, 5, N_GENES),
}


@pytest.mark.parametrize("least", [1, 2, 7], ids=lambda least: f"at least {least}")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_counts_tie_where_the_counts_do(
    rank: Callable[..., list[list[int]]], least: int, dtype: type[np.floating]
) -> None:
    """Also where the smallest count of a cell is not 1, as among genes that all are high."""
    counts = np.where(COUNTS > 0, COUNTS + least - 1, 0)
    logs = np.log1p(counts * np.random.default_rng(1).lognormal(size=(N_CELLS, 1))).astype(dtype)
    medians = MEDIANS["whole numbers: 2/2 ties with 3/3"]
    assert rank(np.expm1(logs).astype(np.float32), medians) == by_definition(counts, medians, N_GENES)


def test_what_is_no_multiple_of_the_smallest_value_stays_as_it_is(rank: Callable[..., list[list[int]]]) -> None:
    assert rank([[1.0, 2.0005, 2.0], [0.5, 1.5, 1.50000001]], np.ones(3)) == [[3, 4, 2], [3, 4, 2]]


@pytest.mark.parametrize("medians", MEDIANS.values(), ids=list(MEDIANS))
@pytest.mark.parametrize("max_length", [1, 64, N_GENES, 5 * N_GENES])
def test_genes_are_in_descending_order_and_ties_in_vocabulary_order(
    rank: Callable, medians: np.ndarray, max_length: int
) -> None:
    assert rank(COUNTS, medians, max_length=max_length) == by_definition(COUNTS, medians, max_length)


@pytest.mark.parametrize("medians", MEDIANS.values(), ids=list(MEDIANS))
def test_columns_in_any_order_with_some_that_are_no_genes(rank: Callable, medians: np.ndarray) -> None:
    expected = rank(COUNTS, medians)
    gene_of_column = np.full(N_GENES + 50, -1, dtype=np.int32)
    columns = RNG.permutation(len(gene_of_column))[:N_GENES]
    gene_of_column[columns] = np.arange(N_GENES)
    shuffled = np.full((N_CELLS, len(gene_of_column)), 9)
    shuffled[:, columns] = COUNTS
    assert rank(shuffled, medians, gene_of_column=gene_of_column) == expected


def test_a_vocabulary_of_more_genes_than_two_digits_hold(rank: Callable) -> None:
    gene_of_column = np.array([70_001, 3, 69_999, 65_536], dtype=np.int32)
    medians = np.ones(70_002)
    assert rank([[1, 1, 1, 1]], medians, gene_of_column=gene_of_column) == [[5, 65_538, 70_001, 70_003]]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32", "float64"])
def test_the_type_of_counts_does_not_matter(rank: Callable, dtype: str) -> None:
    counts, medians = np.minimum(COUNTS, 255), MEDIANS["like those of a corpus"]
    assert rank(counts.astype(dtype), medians) == by_definition(counts, medians, N_GENES)


def test_wide_indices_and_stored_zeros(rank: Callable) -> None:
    counts, medians = sparse.csr_matrix(COUNTS), MEDIANS["like those of a corpus"]
    expected = rank(counts, medians)
    counts.indices, counts.indptr = counts.indices.astype(np.int64), counts.indptr.astype(np.int64)
    assert rank(counts, medians) == expected
    stored = sparse.csr_matrix(COUNTS + 1)
    stored.data -= 1
    assert rank(stored, medians) == expected


def test_counts_of_columns_that_share_a_gene_are_summed(rank: Callable) -> None:
    medians, halves = MEDIANS["whole numbers: 2/2 ties with 3/3"], COUNTS // 2
    order = RNG.permutation(2 * N_GENES)
    both = np.hstack([halves, COUNTS - halves])[:, order]
    gene_of_column = np.tile(np.arange(N_GENES, dtype=np.int32), 2)[order]
    gene_of_column[gene_of_column == 5] = -1
    without = COUNTS.copy()
    without[:, 5] = 0
    assert rank(both, medians, gene_of_column=gene_of_column) == by_definition(without, medians, N_GENES)


def test_no_cells_and_no_values(rank: Callable) -> None:
    assert rank(np.zeros((0, 3)), np.ones(3)) == []
    assert rank(np.zeros((2, 3)), np.ones(3)) == [[], []]


@pytest.mark.parametrize("values_per_piece", [100, 1000, 1 << 16])
def test_how_cells_are_spread_over_threads_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, values_per_piece: int
) -> None:
    medians = MEDIANS["like those of a corpus"]
    monkeypatch.setattr(tokens, "VALUES_PER_PIECE", values_per_piece)
    ranked = rank_tokens(sparse.csr_matrix(COUNTS), medians, max_length=64)
    assert as_lists(ranked) == by_definition(COUNTS, medians, 64)


def test_threads_of_the_caller_may_sort_at_once() -> None:
    medians, results = MEDIANS["like those of a corpus"], []
    work = [
        threading.Thread(
            target=lambda: results.append(as_lists(rank_tokens(sparse.csr_matrix(COUNTS), medians, max_length=64)))
        )
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert results == 4 * [by_definition(COUNTS, medians, 64)]


def test_the_threads_of_torch_stay_as_many_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's own threads would set their number for torch, whose small steps are then many times slower."""
    monkeypatch.setattr(tokens, "VALUES_PER_PIECE", 100)
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            rank_tokens(sparse.csr_matrix(COUNTS), MEDIANS["like those of a corpus"], max_length=64)
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)


def test_ranks_in_sparse_clothing() -> None:
    matrix = ranked_matrix(np.array([0, 2, 2, 5]), np.array([7, 3, 2, 9, 4], dtype=np.int32), 4)
    assert matrix.toarray().tolist() == [[7, 3, 0, 0], [0, 0, 0, 0], [2, 9, 4, 0]]
    assert matrix.dtype == np.int32
    assert matrix.has_canonical_format
    assert ranked_matrix(np.zeros(4, dtype=np.int64), np.empty(0, dtype=np.int32), 4).shape == (3, 4)


def test_the_token_of_a_cell_follows_those_of_the_genes() -> None:
    assert cls_token(25_424) == 25_426


def test_a_checksum_knows_order_and_medians() -> None:
    sums = [
        checksum(GeneVocabulary(ids, medians=medians))
        for ids, medians in ((["A", "B"], [1, 2]), (["B", "A"], [1, 2]), (["A", "B"], [1, 2.5]), (["A", "B"], [1, 2]))
    ]
    assert sums[0] == sums[3]
    assert len(set(sums)) == 3
    with pytest.raises(ValueError, match=r"no order without medians.*sf\.pp\.gene_medians"):
        checksum(GeneVocabulary(["A"]))
