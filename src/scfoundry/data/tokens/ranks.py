"""Cells as tokens: the genes of a cell, ranked by their expression relative to the median (Theodoris et al. 2023)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.pieces import VALUES_PER_PIECE, canonical, kernel_arrays, over_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["FIRST_GENE", "MASK", "PAD", "checksum", "cls_token", "rank_tokens", "ranked_matrix"]

PAD = 0
MASK = 1
FIRST_GENE = 2
"""Token of a vocabulary's first gene; gene i has the token i + 2."""

_ROUNDING = 1e-5
"""Relative error of ratios of counts after normalisation, logarithm and back, in float32: a tenth of this."""

_SMALLEST_COUNT = 64
"""The smallest count of a cell up to which scaled counts are recognised."""

_LOOKED_AT = 4096
"""Values that tell whether a block holds counts."""


def cls_token(n_genes: int) -> int:
    """Token that stands for the whole cell, the first one after those of the genes."""
    return FIRST_GENE + n_genes


def rank_tokens(
    counts: sparse.csr_matrix,
    medians: NDArray[np.float64],
    *,
    max_length: int,
    gene_of_column: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Tokens of the genes that each cell expresses, in the order of their expression.

    The genes of cell :math:`i` are sorted by :math:`c_{ij} / m_j`, descending, with :math:`c_{ij}` the count and
    :math:`m_j` the median of gene :math:`j`; equal ratios stay in vocabulary order. The total of a cell divides all of
    its ratios alike and so plays no part. Where the values of a cell have the ratios of whole numbers, up to
    rounding, they are counts that were scaled; they are compared as these numbers, so that what tied in counts ties.

    ``counts`` are not negative, (n_cells, n_columns) canonical CSR; ``gene_of_column`` is the gene of every column, -1
    to leave one out; where columns share a gene, their counts are summed. Returned are where each cell starts among the
    tokens, (n_cells + 1,), and the tokens.

    >>> from scipy import sparse
    >>> counts = sparse.csr_matrix([[3.0, 1.0, 8.0], [0.0, 0.0, 0.0], [2.0, 0.0, 2.0]])
    >>> rank_tokens(counts, np.array([1.0, 1.0, 4.0]), max_length=2)
    (array([0, 2, 2, 4]), array([2, 4, 2, 4], dtype=int32))
    """
    from scfoundry.data.genes.align_kernel import close_gaps
    from scfoundry.data.tokens.rank_sort import sort_genes

    values, columns, indptr = kernel_arrays(_as_counted(counts))
    if gene_of_column is None:
        gene_of_column = np.arange(counts.shape[1], dtype=np.int32)
    gene_of_column = gene_of_column.astype(np.int32)
    times = np.bincount(gene_of_column[gene_of_column >= 0], minlength=len(medians))
    shared = (gene_of_column >= 0) & (times[gene_of_column] > 1)
    medians = np.array(medians, dtype=np.float64)
    divisors = np.where(gene_of_column < 0, np.inf, medians[gene_of_column])
    starts = np.concatenate([[0], np.cumsum(np.minimum(np.diff(indptr), max_length))])
    tokens, lengths = np.empty(starts[-1], dtype=np.int32), np.empty(counts.shape[0], dtype=np.int64)

    def sort(first: int, last: int) -> None:
        how = (gene_of_column, shared, divisors, medians)
        sort_genes(first, last, values, columns, indptr, *how, FIRST_GENE, tokens, starts, lengths)

    over_pieces(sort, indptr, VALUES_PER_PIECE)
    tokens.resize(close_gaps(tokens, starts, lengths), refcheck=False)
    return np.concatenate([[0], np.cumsum(lengths)]), tokens


def ranked_matrix(indptr: NDArray[np.int64], tokens: NDArray[np.int32], max_length: int) -> sparse.csr_matrix:
    """Tokens in sparse clothing, (n_cells, max_length) int32: column r of a cell holds the token of rank r.

    Nothing is stored beyond a cell's length, and the memory of ``tokens`` is shared.
    """
    lengths = np.diff(indptr)
    lengths = lengths[lengths > 0]
    # Counted up from cell to cell in place: at a million cells, another array of this size is worth avoiding.
    ranks: NDArray[np.integer] = np.ones(
        len(tokens), dtype=np.int64 if len(tokens) > np.iinfo(np.int32).max else np.int32
    )
    ranks[:1] = 0
    ranks[np.cumsum(lengths[:-1])] = 1 - lengths[:-1]
    np.cumsum(ranks, dtype=ranks.dtype, out=ranks)
    return canonical(tokens, ranks, indptr, (len(indptr) - 1, max_length))


def checksum(genes: GeneVocabulary) -> str:
    """SHA-256 of what gives tokens their meaning: the ids in order, and their medians."""
    if genes.medians is None:
        msg = "Tokens have no order without medians. Compute them: genes = sf.pp.gene_medians(adata)"
        raise ValueError(msg)
    digest = hashlib.sha256("\n".join(genes.ids).encode())
    digest.update(genes.medians.astype("<f8").tobytes())
    return digest.hexdigest()


def _as_counted(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Values as float32; of cells whose counts were scaled, the smallest whole numbers with the same ratios."""
    values: NDArray[np.float32] = counts.data.astype(np.float32, copy=False)
    # Cells of a data set are counts or scaled counts alike: a look at the first tells, and costs nothing.
    first = values[:_LOOKED_AT]
    if (first == np.rint(first)).all():
        return canonical(values, counts.indices, counts.indptr, counts.shape)
    from scfoundry.data.tokens.rank_sort import restore_counts

    values = values.copy()
    restore_counts(values, counts.indptr.astype(np.int64), _ROUNDING, _SMALLEST_COUNT)
    return canonical(values, counts.indices, counts.indptr, counts.shape)
