"""The order of every cell's genes by radix sort, compiled by numba when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.compiled import compiled
from scfoundry.data.genes.align_kernel import summed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]
    Genes = NDArray[np.int32]
    Starts = NDArray[np.int64]
    Marks = NDArray[np.bool_]
    Ratios = NDArray[np.float64]
    Places = NDArray[np.uint64]
    Digits = NDArray[np.uint32]

__all__ = ["restore_counts", "sort_genes"]

_RADIX = 256
_DIGIT, _LOW, _UPPER, _WORD = np.uint64(8), np.uint64(255), np.uint64(_RADIX), np.uint64(32)
_MOVES = 16
"""Steps of insertion per gene, after which ratios that tie or hardly differ are merged instead."""


@compiled
def _order(genes: Genes, ratios: Ratios, rounded: Values, n: int, places: Places, half: Places, starts: Digits) -> None:
    """Fill `places` with the places of n positive ratios in descending order, equal ones by gene.

    Bit patterns of positive floats are ordered as the floats are. The leading 16 bits of their distance to the largest
    are sorted in two passes, each together with its place in one word, so that no pass looks anything up. What is left
    open then, a few ten thousandths, insertion by the exact ratios settles where these bits are the same.
    """
    bits = rounded.view(np.uint32)
    smallest, largest = bits[0], bits[0]
    for j in range(1, n):
        smallest, largest = min(smallest, bits[j]), max(largest, bits[j])
    dropped = np.uint32(0)
    while (largest - smallest) >> dropped >= np.uint32(_RADIX * _RADIX):
        dropped += np.uint32(1)
    starts[:] = 0
    one = np.uint32(1)
    for j in range(n):
        key = np.uint64((largest - bits[j]) >> dropped)
        places[j] = (key << _WORD) | np.uint64(j)
        starts[key & _LOW] += one
        starts[_UPPER + (key >> _DIGIT)] += one
    low, high = np.uint32(0), np.uint32(0)
    for digit in range(_RADIX):
        size = starts[digit]
        starts[digit] = low
        low += size
        size = starts[_RADIX + digit]
        starts[_RADIX + digit] = high
        high += size
    for j in range(n):
        bucket = (places[j] >> _WORD) & _LOW
        half[starts[bucket]] = places[j]
        starts[bucket] += one
    for j in range(n):
        bucket = _UPPER + (half[j] >> (_WORD + _DIGIT))
        places[starts[bucket]] = half[j]
        starts[bucket] += one
    left = _MOVES * n
    for j in range(1, n):
        word = places[j]
        if places[j - 1] >> _WORD != word >> _WORD:
            continue
        place, i = np.uint32(word), j
        ratio = ratios[place]
        while i > 0 and places[i - 1] >> _WORD == word >> _WORD:
            before = np.uint32(places[i - 1])
            if ratios[before] > ratio or (ratios[before] == ratio and genes[before] < genes[place]):
                break
            places[i] = places[i - 1]
            i -= 1
        places[i] = word
        left -= j - i
        if left < 0:
            by_gene = np.argsort(genes[:n])
            places[:n] = by_gene[np.argsort(-ratios[by_gene], kind="mergesort")]
            return


@compiled
def restore_counts(values: Values, indptr: Starts, rounding: float, most: int) -> None:
    """Replace the positive values of every cell by whole numbers with the same ratios, where there are such.

    Tried is every count up to ``most`` that the smallest value may have been; ``rounding`` is relative.
    """
    for cell in range(len(indptr) - 1):
        smallest = np.float32(np.inf)
        for j in range(indptr[cell], indptr[cell + 1]):
            if 0 < values[j] < smallest:
                smallest = values[j]
        for count in range(1, most + 1):
            fits = np.isfinite(smallest)
            for j in range(indptr[cell], indptr[cell + 1]):
                multiple = count * (np.float64(values[j]) / smallest)
                if abs(multiple - np.rint(multiple)) > min(rounding * multiple, 0.25):
                    fits = False
                    break
            if fits:
                for j in range(indptr[cell], indptr[cell + 1]):
                    values[j] = np.rint(count * (np.float64(values[j]) / smallest))
                break


@compiled
def sort_genes(
    first: int,
    last: int,
    values: Values,
    columns: Genes,
    indptr: Starts,
    gene_of_column: Genes,
    shared: Marks,
    divisors: Ratios,
    medians: Ratios,
    first_token: int,
    tokens: Genes,
    starts: Starts,
    lengths: Starts,
) -> None:
    """Genes of every cell from `first` up to `last` by value / divisor, descending, ties by gene.

    ``divisors`` are the ``medians`` of genes by column, infinite for columns to leave out. ``shared`` columns have a
    gene together with others, and their values are summed. Filled are ``tokens``, which are numbered from
    ``first_token``: each cell starts at ``starts`` and has room up to the next; and how many genes it has there. The
    cells share one set of buffers; threads may sort different cells at once.
    """
    longest = 1
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell] + 1)  # one more than is kept
    genes, half, places = np.empty(longest, np.int32), np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    ratios, rounded = np.empty(longest, np.float64), np.empty(longest, np.float32)
    digits = np.empty(2 * _RADIX, np.uint32)
    held, held_genes = np.empty(longest, np.float32), np.empty(longest, np.int32)
    found, totals = np.empty(longest, np.int32), np.empty(longest, np.float32)
    some_shared = shared.any()
    sums = np.zeros(len(medians) if some_shared else 0, np.float64)
    for cell in range(first, last):
        n, n_held = 0, 0
        for j in range(indptr[cell], indptr[cell + 1]):
            column = np.uint32(columns[j])  # numba looks at the sign of every index that may have one
            gene, ratio = gene_of_column[column], values[j] / divisors[column]
            if some_shared:  # written to both and kept in one, as no branch could be foreseen
                held[n_held], held_genes[n_held] = values[j], gene
                n_held += shared[column]
                genes[n], ratios[n], rounded[n] = gene, ratio, ratio
                n += (ratio > 0) & (not shared[column])
            elif ratio > 0:
                genes[n], ratios[n], rounded[n] = gene, ratio, ratio
                n += 1
        if n_held:
            for i in range(summed(held, held_genes, n_held, sums, found, totals)):
                ratio = totals[i] / medians[found[i]]
                genes[n], ratios[n], rounded[n] = found[i], ratio, ratio
                n += 1
        lengths[cell] = min(n, starts[cell + 1] - starts[cell])
        if n:
            _order(genes, ratios, rounded, n, places, half, digits)
        for j in range(lengths[cell]):
            tokens[starts[cell] + j] = genes[np.uint32(places[j])] + first_token
