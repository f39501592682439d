"""The order of every cell's genes by LSD radix sort, compiled by numba when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from scfoundry.data.tokens.radix import DIGIT_BITS, RADIX, sort_digit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Columns = NDArray[np.int32]
    Starts = NDArray[np.int64]
    Divisors = NDArray[np.float64]
    Packed = NDArray[np.uint64]
    Buffers = tuple[Columns, Columns, Divisors, Values, Packed, Packed, Starts]

__all__ = ["count_genes", "sort_genes"]

_KEY_BITS = 3 * DIGIT_BITS


@njit(nogil=True, cache=True)
def count_genes(values: Values, columns: Columns, indptr: Starts, divisors: Divisors) -> Starts:
    """Number of genes that each cell expresses: values above zero in columns that are not divided by infinity."""
    lengths = np.zeros(len(indptr) - 1, np.int64)
    for cell in range(len(lengths)):
        for j in range(indptr[cell], indptr[cell + 1]):
            lengths[cell] += values[j] / divisors[columns[j]] > 0
    return lengths


@njit(nogil=True, cache=True)
def _sort_cell(
    values: Values,
    columns: Columns,
    gene_of_column: Columns,
    divisors: Divisors,
    ranked: Columns,
    buffers: Buffers,
) -> None:
    """Write the first ``len(ranked)`` genes of one cell by value / divisor, descending, ties by gene.

    Bit patterns of positive floats are ordered as the floats are. The leading 24 bits of their distance to the largest
    are sorted digit by digit. What is left open then, ratios about 1e-6 apart, a pass of insertion by the exact ratios
    settles; genes whose ratios tie are sorted last, where columns do not have them in order.
    """
    genes, ordered, ratios, rounded, packed, spare, starts = buffers
    n = 0
    for j in range(len(values)):
        ratio = values[j] / divisors[columns[j]]
        if ratio > 0:
            ratios[n] = ratio
            rounded[n] = ratio
            genes[n] = gene_of_column[columns[j]]
            n += 1
    if n == 0:
        return

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
        packed[j] = (np.uint64(j) << half) | (np.uint64(largest - bits[j]) >> dropped)
    for shift in range(0, _KEY_BITS, DIGIT_BITS):
        if sort_digit(packed, spare, n, shift, starts):
            packed, spare = spare, packed

    packed[0] >>= half
    for j in range(1, n):
        place = packed[j] >> half
        i = j
        while i > 0 and ratios[packed[i - 1]] < ratios[place]:
            packed[i] = packed[i - 1]
            i -= 1
        packed[i] = place
    tied, in_order = 0, True
    for j in range(n):
        ordered[j] = genes[packed[j]]
        if j and ratios[packed[j]] == ratios[packed[j - 1]]:
            in_order &= ordered[j - 1] < ordered[j]
            continue
        if not in_order:
            ordered[tied:j].sort()
        tied, in_order = j, True
    if not in_order:
        ordered[tied:n].sort()
    ranked[:] = ordered[: len(ranked)]


@njit(nogil=True, cache=True)
def sort_genes(
    first: int,
    last: int,
    values: Values,
    columns: Columns,
    indptr: Starts,
    gene_of_column: Columns,
    divisors: Divisors,
    ranked: Columns,
    ranked_indptr: Starts,
) -> None:
    """Genes of every cell from `first` up to `last` by value / divisor, descending, ties by gene.

    ``divisors`` of columns to leave out are infinite. Filled is ``ranked``, where each cell starts at ``ranked_indptr``
    and takes no more than `count_genes` says. The cells share one set of buffers; threads may sort different cells at
    once.
    """
    longest = 0
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell])
    genes, ordered = np.empty(longest, np.int32), np.empty(longest, np.int32)
    ratios, rounded = np.empty(longest, np.float64), np.empty(longest, np.float32)
    packed, spare = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    buffers = (genes, ordered, ratios, rounded, packed, spare, np.empty(RADIX, np.int64))
    for cell in range(first, last):
        here = slice(indptr[cell], indptr[cell + 1])
        kept = ranked[ranked_indptr[cell] : ranked_indptr[cell + 1]]
        _sort_cell(values[here], columns[here], gene_of_column, divisors, kept, buffers)
