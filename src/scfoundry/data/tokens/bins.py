"""Expression as bins: where the value of a gene stands among those of its cell (Cui et al. 2024)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from scfoundry.data.pieces import VALUES_PER_PIECE, kernel_arrays, over_pieces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["FEWEST_BINS", "MOST_BINS", "BinnedGenes", "Ties", "Truncation", "bin_values", "gene_keys", "truncated"]

Ties = Literal["mid", "low", "high", "random"]
Truncation = Literal["expression", "hvg", "random"]

FEWEST_BINS, MOST_BINS = 3, 1 << 16


class BinnedGenes(NamedTuple):
    """Genes of n cells end to end, with their bins; those of cell i are ``genes[indptr[i]:indptr[i + 1]]``."""

    indptr: NDArray[np.int64]
    genes: NDArray[np.int32]  # vocabulary positions, ascending within a cell
    bins: NDArray[np.uint16]


def gene_keys(ids: Iterable[str]) -> NDArray[np.uint64]:
    """A number for every gene that depends on its name alone, (G,): what is drawn by it is the same in any order."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def bin_values(
    counts: sparse.csr_matrix,
    *,
    n_bins: int,
    ties: Ties,
    keys: NDArray[np.uint64],
    gene_of_column: NDArray[np.int32] | None = None,
) -> NDArray[np.uint16]:
    r"""Bin of every stored value, as ``counts.data``; 0 for zeros and for columns that are left out.

    The n - 1 edges :math:`e_k` of n bins are quantiles of the cell's values above zero at equally spaced probabilities
    from 0 to 1, interpolated linearly. A value :math:`x` is in bin :math:`\#\{e_k \le x\}`, from 1 to n - 1. Where it
    equals edges, as tied counts do, the bins from :math:`\#\{e_k < x\} + 1` on are as good; ``ties`` says which to
    take: the lowest, the highest, the one between them, or for every gene one drawn ``"random"``, which depends on the
    cell's genes and the gene alone. Only the order of a cell's values matters: depth and logarithm change nothing.

    ``counts`` are not negative, (n_cells, n_columns) canonical CSR. ``keys`` are those of the genes (`gene_keys`), and
    ``gene_of_column`` is the gene of every column, -1 to leave one out; column i is gene i if `None`.

    >>> counts = sparse.csr_matrix([[1.0, 0.0, 5.0, 1.0]])
    >>> bin_values(counts, n_bins=4, ties="low", keys=gene_keys("ABCD"))
    array([1, 3, 1], dtype=uint16)
    """
    from scfoundry.data.tokens import bin_kernel

    if gene_of_column is None:
        gene_of_column = np.arange(counts.shape[1], dtype=np.int32)
    codes = {"low": bin_kernel.LOW, "high": bin_kernel.HIGH, "mid": bin_kernel.MID, "random": bin_kernel.RANDOM}
    # One type each, so that the kernel is compiled once.
    values, columns, indptr = kernel_arrays(counts.astype(np.float32, copy=False))
    gene_of_column = gene_of_column.astype(np.int32)
    bins = np.zeros(len(values), dtype=np.uint16)

    def work(first: int, last: int) -> None:
        bin_kernel.bin_cells(first, last, values, columns, indptr, gene_of_column, keys, n_bins, codes[ties], bins)

    over_pieces(work, indptr, VALUES_PER_PIECE)
    return bins


def truncated(
    cells: BinnedGenes,
    max_genes: int,
    how: Truncation,
    *,
    keys: NDArray[np.uint64],
    variable: NDArray[np.int64] | None = None,
) -> BinnedGenes:
    """At most ``max_genes`` genes per cell; which, depends on the cell alone.

    ``how``: ``"expression"`` keeps the highest, ``"hvg"`` the ``variable`` genes (vocabulary positions) and then the
    highest, ``"random"`` draws them. Genes of one bin are kept in an order of their ``keys`` (`gene_keys`) that is the
    same in all cells.
    """
    lengths = np.diff(cells.indptr)
    long = np.flatnonzero(lengths > max_genes)
    if not len(long):
        return cells
    from scfoundry.data.tokens.bin_kernel import mixed

    kept = np.ones(len(cells.genes), dtype=bool)
    first = np.zeros(len(keys), dtype=bool)
    first[variable if how == "hvg" and variable is not None else []] = True
    for cell in long:
        here = slice(cells.indptr[cell], cells.indptr[cell + 1])
        genes, bins = cells.genes[here], cells.bins[here]
        if how == "random":
            # Drawn by the genes of the cell, never by its place in a batch.
            order = np.argsort(mixed(keys[genes] ^ mixed(keys[genes].sum(dtype=np.uint64))))
        else:
            order = np.lexsort((keys[genes], -bins.astype(np.int32), ~first[genes]))
        kept[np.arange(here.start, here.stop)[order[max_genes:]]] = False
    before = np.concatenate([[0], np.cumsum(kept)])
    return BinnedGenes(before[cells.indptr], cells.genes[kept], cells.bins[kept])
