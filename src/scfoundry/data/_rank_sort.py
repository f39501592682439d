"""The order of every cell's genes by LSD radix sort, compiled by numba when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit, prange

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Columns = NDArray[np.int32]
    Starts = NDArray[np.int64]
    Packed = NDArray[np.uint64]

__all__ = ["count_genes", "sort_genes", "sort_genes_in_parallel"]

_DIGIT_BITS = 8
_RADIX = 1 << _DIGIT_BITS
_KEY_BITS = 3 * _DIGIT_BITS


@njit(nogil=True, cache=True)
def count_genes(values: Values, columns: Columns, indptr: Starts, gene_of_column: Columns) -> Starts:
    """Number of genes that each cell expresses: values above zero in columns that have a gene."""
    lengths = np.zeros(len(indptr) - 1, np.int64)
    for cell in range(len(lengths)):
        for j in range(indptr[cell], indptr[cell + 1]):
            if gene_of_column[columns[j]] >= 0 and values[j] > 0:
                lengths[cell] += 1
    return lengths


@njit(nogil=True, cache=True)
def _sort_digit(packed: Packed, spare: Packed, n: int, shift: int, starts: Starts) -> bool:
    """Sort by one digit, stable, from the first array into the second; False if all share the digit: nothing to do."""
    right, mask = np.uint64(shift), np.uint64(_RADIX - 1)
    starts[:] = 0
    for j in range(n):
        starts[(packed[j] >> right) & mask] += 1
    if starts[(packed[0] >> right) & mask] == n:
        return False
    start = 0
    for bucket in range(_RADIX):
        size = starts[bucket]
        starts[bucket] = start
        start += size
    for j in range(n):
        bucket = (packed[j] >> right) & mask
        spare[starts[bucket]] = packed[j]
        starts[bucket] += 1
    return True


@njit(nogil=True, cache=True)
def _sort_cell(
    values: Values,
    columns: Columns,
    gene_of_column: Columns,
    medians: NDArray[np.float64],
    ranked: Columns,
    genes: Columns,
    ratios: NDArray[np.float64],
    rounded: Values,
    packed: Packed,
    spare: Packed,
    starts: Starts,
) -> None:
    """Write the first ``len(ranked)`` genes of one cell by value / median, descending, ties by gene.

    Bit patterns of positive floats are ordered as the floats are. The leading 24 bits of their distance to the largest
    are sorted digit by digit, after the genes where these are not in order. What is left open then, ratios about 1e-6
    apart, a pass of insertion by the exact ratios settles.
    """
    n = 0
    in_order = True
    last, highest = -1, 0
    for j in range(len(values)):
        gene = gene_of_column[columns[j]]
        if gene >= 0 and values[j] > 0:
            ratio = values[j] / medians[gene]
            genes[n] = gene
            ratios[n] = ratio
            rounded[n] = ratio
            packed[n] = (np.uint64(n) << np.uint64(32)) | np.uint64(gene)
            in_order &= gene > last
            last, highest = gene, max(gene, highest)
            n += 1
    if n == 0:
        return
    if not in_order:
        shift = 0
        while highest >> shift:
            if _sort_digit(packed, spare, n, shift, starts):
                packed, spare = spare, packed
            shift += _DIGIT_BITS

    bits = rounded.view(np.uint32)
    smallest, largest = bits[0], bits[0]
    for j in range(1, n):
        smallest = min(smallest, bits[j])
        largest = max(largest, bits[j])
    dropped = np.uint64(0)
    while (np.uint64(largest - smallest) >> dropped) >> np.uint64(_KEY_BITS):
        dropped += np.uint64(1)
    half = np.uint64(32)
    for j in range(n):
        place = packed[j] >> half
        packed[j] = (place << half) | (np.uint64(largest - bits[place]) >> dropped)
    for shift in range(0, _KEY_BITS, _DIGIT_BITS):
        if _sort_digit(packed, spare, n, shift, starts):
            packed, spare = spare, packed

    packed[0] >>= half
    for j in range(1, n):
        place = packed[j] >> half
        i = j
        while i > 0 and ratios[packed[i - 1]] < ratios[place]:
            packed[i] = packed[i - 1]
            i -= 1
        packed[i] = place
    for j in range(len(ranked)):
        ranked[j] = genes[packed[j]]


@njit(nogil=True, cache=True)
def _sort_range(
    first: int,
    last: int,
    values: Values,
    columns: Columns,
    indptr: Starts,
    gene_of_column: Columns,
    medians: NDArray[np.float64],
    ranked: Columns,
    ranked_indptr: Starts,
) -> None:
    """Sort the cells from `first` up to `last`, with one set of buffers for all of them."""
    longest = 0
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell])
    genes = np.empty(longest, np.int32)
    ratios, rounded = np.empty(longest, np.float64), np.empty(longest, np.float32)
    packed, spare = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    starts = np.empty(_RADIX, np.int64)
    for cell in range(first, last):
        here = slice(indptr[cell], indptr[cell + 1])
        kept = ranked[ranked_indptr[cell] : ranked_indptr[cell + 1]]
        _sort_cell(
            values[here], columns[here], gene_of_column, medians, kept, genes, ratios, rounded, packed, spare, starts
        )


@njit(nogil=True, cache=True)
def sort_genes(
    bounds: Starts,
    values: Values,
    columns: Columns,
    indptr: Starts,
    gene_of_column: Columns,
    medians: NDArray[np.float64],
    ranked: Columns,
    ranked_indptr: Starts,
) -> None:
    """Genes of every cell by value / median, descending, ties by gene.

    Parameters
    ----------
    bounds
        Where to cut the cells into pieces, shape ``(n_pieces + 1,)``; a piece is what one thread takes at a time.
    values
        Values, shape ``(n_values,)``.
    columns
        Column of every value, shape ``(n_values,)``.
    indptr
        Where each cell starts among the values, shape ``(n_cells + 1,)``.
    gene_of_column
        Gene of every column, -1 where it has none, shape ``(n_columns,)``.
    medians
        Divisor of every gene, shape ``(n_genes,)``.
    ranked
        Filled with the first genes of each cell, shape ``(n_ranked,)``.
    ranked_indptr
        Where each cell starts in `ranked`, shape ``(n_cells + 1,)``; no cell takes more than :func:`count_genes` says.
    """
    for i in range(len(bounds) - 1):
        _sort_range(bounds[i], bounds[i + 1], values, columns, indptr, gene_of_column, medians, ranked, ranked_indptr)


@njit(parallel=True, nogil=True, cache=True)
def sort_genes_in_parallel(
    bounds: Starts,
    values: Values,
    columns: Columns,
    indptr: Starts,
    gene_of_column: Columns,
    medians: NDArray[np.float64],
    ranked: Columns,
    ranked_indptr: Starts,
) -> None:
    """What :func:`sort_genes` does, with numba's threads."""
    for i in prange(len(bounds) - 1):
        _sort_range(bounds[i], bounds[i + 1], values, columns, indptr, gene_of_column, medians, ranked, ranked_indptr)
