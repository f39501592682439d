"""Counts moved into vocabulary order, cell by cell, compiled by numba when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry.data.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32] | NDArray[np.float64]
    Counts = NDArray[np.float32]
    Genes = NDArray[np.int32]
    Starts = NDArray[np.int64]
    Marks = NDArray[np.bool_]
    Sums = NDArray[np.float64]

__all__ = ["align_cells", "close_gaps", "summed"]

# Whole numbers up to this one add up exactly, as many as there are genes.
_EXACT = 2.0**31
# The only bit of a word, as a number: by multiplication, which leaves it in the highest six bits (de Bruijn).
_SEQUENCE = np.uint64(0x03F79D71B4CB0A89)
_POSITION = np.zeros(64, dtype=np.int64)
_POSITION[(np.uint64(1) << np.arange(64, dtype=np.uint64)) * _SEQUENCE >> np.uint64(58)] = np.arange(64)


@compiled
def summed(values: Values, genes: Genes, n: int, sums: Sums, found: Genes, totals: Counts) -> int:
    """Sum the first n values gene by gene, smallest value first: the order in which they come shows in no bit.

    ``sums``, zeros for every gene, is left as it was. Filled are genes and sums that are not zero; returned is how many
    there are.
    """
    whole = True
    for j in range(n):
        whole &= values[j] == np.rint(values[j]) and abs(values[j]) < _EXACT
    n_found = 0
    # Sums of counts are the same in any order.
    for j in np.arange(n) if whole else np.argsort(values[:n]):
        gene = genes[j]
        if sums[gene] == 0 and values[j] != 0:
            found[n_found] = gene
            n_found += 1
        sums[gene] += values[j]
    n_kept = 0
    for i in range(n_found):
        gene = found[i]
        total = np.float32(sums[gene])
        sums[gene] = 0
        if total != 0:
            found[n_kept], totals[n_kept] = gene, total
            n_kept += 1
    return n_kept


@compiled
def align_cells(
    first: int,
    last: int,
    values: Values,
    columns: Genes,
    indptr: Starts,
    target: Genes,
    shared: Marks,
    n_genes: int,
    genes: Genes,
    counts: Counts,
    lengths: Starts,
) -> None:
    """Genes, ascending, and counts of the cells from `first` up to `last`, from where the cell's values stand on.

    ``target``: gene of every column, -1 to leave it out; ``shared``: columns whose gene has others, too. Genes that a
    cell expresses are marked in a set of bits, out of which they come in order: nothing is sorted. Filled are
    ``genes``, ``counts`` and how many there are per cell; threads may align different cells at once.
    """
    longest = 1
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell])
    of_gene, marks = np.empty(n_genes, np.float32), np.zeros(n_genes // 64 + 1, np.uint64)
    held, held_genes = np.empty(longest, values.dtype), np.empty(longest, np.int32)
    found, totals = np.empty(longest, np.int32), np.empty(longest, np.float32)
    sums = np.zeros(n_genes if shared.any() else 0, np.float64)
    one, six, low, high = np.uint64(1), np.uint64(6), np.uint64(63), np.uint64(58)
    for cell in range(first, last):
        n_held = 0
        for j in range(indptr[cell], indptr[cell + 1]):
            gene = target[columns[j]]
            if gene < 0:
                continue
            if shared[columns[j]]:
                held[n_held], held_genes[n_held] = values[j], gene
                n_held += 1
                continue
            count = np.float32(values[j])
            if count != 0:
                of_gene[gene] = count
                marks[np.uint64(gene) >> six] |= one << (np.uint64(gene) & low)
        if n_held:
            for i in range(summed(held, held_genes, n_held, sums, found, totals)):
                of_gene[found[i]] = totals[i]
                marks[np.uint64(found[i]) >> six] |= one << (np.uint64(found[i]) & low)
        place = indptr[cell]
        for word in range(len(marks)):
            left = marks[word]
            if left:
                marks[word] = 0
                while left:
                    bit = left & (~left + one)
                    left ^= bit
                    gene = (word << 6) + _POSITION[(bit * _SEQUENCE) >> high]
                    genes[place], counts[place] = gene, of_gene[gene]
                    place += 1
        lengths[cell] = place - indptr[cell]


@compiled
def close_gaps(values: NDArray[Any], starts: Starts, lengths: Starts) -> int:
    """Move what cells hold, ``lengths`` from ``starts`` on, to the front in place; returns how much that is."""
    place = 0
    for cell in range(len(lengths)):
        start = starts[cell]
        if place == start:
            place += lengths[cell]
            continue
        for j in range(start, start + lengths[cell]):
            values[place] = values[j]
            place += 1
    return place
