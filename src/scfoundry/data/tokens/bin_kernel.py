"""Bins of every cell's values, compiled by numba when it is first needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry.data.compiled import compiled
from scfoundry.data.tokens.radix import DIGIT_BITS, RADIX, sort_digit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Sorted = NDArray[np.float64]
    Columns = NDArray[np.int32]
    Starts = NDArray[np.int64]
    Keys = NDArray[np.uint64]
    Bins = NDArray[np.uint16]
    Buffers = tuple[Sorted, Sorted, Starts, Starts, Columns, Columns, Keys, Keys, Starts]

__all__ = ["HIGH", "LOW", "MID", "RANDOM", "bin_cells", "draw_bin", "mixed"]

LOW, HIGH, MID, RANDOM = 0, 1, 2, 3
COUNTED = 1 << 12
"""Whole numbers below are counted instead of sorted."""


@compiled
def mixed(key: Any) -> Any:
    """Scramble 64 bits, a number or an array of such (finaliser of SplitMix64)."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@compiled
def draw_bin(lowest: int, highest: int, u: float) -> int:
    """One of the bins from the lowest to the highest, all alike likely for u uniform in [0, 1)."""
    return max(lowest, math.ceil(highest - u * (highest - lowest + 1)))


@compiled
def _edge(before: float, after: float, share: float) -> float:
    """Between two neighbours in order, rounded as numpy's quantiles are: what is equal there is equal here."""
    if share >= 0.5:
        return after - (after - before) * (1.0 - share)
    return before + (after - before) * share


@compiled
def _edges(ordered: Sorted, times: Starts, n: int, edges: Sorted) -> None:
    """Quantiles at equally spaced probabilities of n values: the distinct ones in order, each ``times``."""
    step = 1.0 / (len(edges) - 1)
    place, seen = 0, times[0]  # the value of rank i is ordered[place] while i < seen
    for k in range(len(edges)):
        rank = (n - 1) * (1.0 if k == len(edges) - 1 else k * step)
        below = math.floor(rank)
        while below >= seen:
            place += 1
            seen += times[place]
        after = ordered[place] if below + 1 < seen or below + 1 >= n else ordered[place + 1]
        edges[k] = _edge(ordered[place], after, rank - below)


@compiled
def _count(values: Values, n: int, top: int, buffers: Buffers) -> int:
    """Distinct values, how often each occurs, and the number of each value among them, as `_sort` gives them.

    For whole numbers below ``top``; ``packed`` holds the places of the n values above zero in its upper half.
    """
    _, ordered, times, counted, number, _, packed, _, _ = buffers
    half = np.uint64(32)
    counted[:top] = 0
    for j in range(n):
        counted[int(values[packed[j] >> half])] += 1
    n_distinct = 0
    for value in range(1, top):
        if counted[value]:
            ordered[n_distinct], times[n_distinct] = value, counted[value]
            counted[value] = n_distinct
            n_distinct += 1
    for j in range(n):
        place = packed[j] >> half
        number[place] = counted[int(values[place])]
    return n_distinct


@compiled
def _sort(values: Values, n: int, buffers: Buffers) -> int:
    """Distinct values in order, how often each occurs, and the number of each value among them; how many there are.

    ``packed`` holds the places of the n values above zero in its upper half and their bits in its lower one. Bit
    patterns of positive floats are ordered as the floats are.
    """
    _, ordered, times, _, number, _, packed, spare, starts = buffers
    for shift in range(0, 32, DIGIT_BITS):
        if sort_digit(packed, spare, n, shift, starts):
            packed, spare = spare, packed
    n_distinct = 0
    for j in range(n):
        place = packed[j] >> np.uint64(32)
        if n_distinct and values[place] == ordered[n_distinct - 1]:
            times[n_distinct - 1] += 1
        else:
            ordered[n_distinct], times[n_distinct] = values[place], 1
            n_distinct += 1
        number[place] = n_distinct - 1
    return n_distinct


@compiled
def _bin_cell(
    values: Values, columns: Columns, gene_of_column: Columns, keys: Keys, ties: int, buffers: Buffers, bins: Bins
) -> None:
    """Write the bin of every value of one cell, 0 for zeros and for columns that are left out.

    A value above ``lt`` edges that equals ``hi - lt`` of them has the bins lt + 1 to hi to choose from, and hi if it
    equals none. Each distinct value is looked at once.
    """
    edges, ordered, times, _, number, ranges, packed, _, _ = buffers
    bits = values.view(np.uint32)
    n, largest, whole = 0, 0.0, True
    seed = np.uint64(0)
    for j in range(len(values)):
        gene, value = gene_of_column[columns[j]], values[j]
        if gene >= 0 and value > 0:
            packed[n] = (np.uint64(j) << np.uint64(32)) | np.uint64(bits[j])
            n += 1
            if value > largest:
                largest = value
            whole = whole and value < COUNTED and value == np.float32(int(value))
            if ties == RANDOM:
                # A sum over its genes: a cell has the same seed in any order of them, and at any depth.
                seed += mixed(keys[gene])
    if n == 0:
        return
    n_distinct = _count(values, n, int(largest) + 1, buffers) if whole else _sort(values, n, buffers)
    _edges(ordered, times, n, edges)
    lower, upper = 0, 0
    for i in range(n_distinct):
        while lower < len(edges) and edges[lower] < ordered[i]:
            lower += 1
        while upper < len(edges) and edges[upper] <= ordered[i]:
            upper += 1
        lowest = min(lower + 1, upper)
        if ties == HIGH:
            lowest = upper
        elif ties == MID:
            lowest = (lowest + upper) // 2
        ranges[2 * i], ranges[2 * i + 1] = lowest, upper

    seed = mixed(seed)
    for j in range(len(values)):
        gene, value = gene_of_column[columns[j]], values[j]
        if gene < 0 or value <= 0:
            continue
        i = number[j]
        if ties != RANDOM:
            bins[j] = ranges[2 * i]
        else:
            u = float(mixed(keys[gene] ^ seed) >> np.uint64(11)) * 2.0**-53
            bins[j] = draw_bin(ranges[2 * i], ranges[2 * i + 1], u)


@compiled
def bin_cells(
    first: int,
    last: int,
    values: Values,
    columns: Columns,
    indptr: Starts,
    gene_of_column: Columns,
    keys: Keys,
    n_bins: int,
    ties: int,
    bins: Bins,
) -> None:
    """Fill ``bins``, zeros before, of the cells from `first` up to `last`; see `bin_values`.

    The cells share one set of buffers; threads may bin different cells at once.
    """
    longest = 1
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell])
    edges, ordered = np.empty(n_bins - 1, np.float64), np.empty(longest, np.float64)
    times, counted = np.empty(longest, np.int64), np.empty(COUNTED, np.int64)
    number, ranges = np.empty(longest, np.int32), np.empty(2 * longest, np.int32)
    packed, spare = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    buffers = (edges, ordered, times, counted, number, ranges, packed, spare, np.empty(RADIX, np.int64))
    for cell in range(first, last):
        here = slice(indptr[cell], indptr[cell + 1])
        _bin_cell(values[here], columns[here], gene_of_column, keys, ties, buffers, bins[here])
