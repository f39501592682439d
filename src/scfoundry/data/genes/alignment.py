"""Where every column of a data set goes in a model's gene order, and how counts are moved there."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry.data.pieces import VALUES_PER_PIECE, canonical, kernel_arrays, over_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["GeneAlignment"]


@dataclass(frozen=True, eq=False)
class GeneAlignment:
    """Columns of a data set matched with the genes of a vocabulary.

    >>> from scipy import sparse
    >>> from scfoundry.data.genes import GeneVocabulary
    >>> alignment = GeneVocabulary(["ENSG00000198851", "ENSG00000111640"]).align(["GAPDH", "CD3E"])
    >>> alignment.summary()
    '2 of 2 genes matched (symbol 2), 0 dropped, 0 of 2 vocabulary genes not measured'
    >>> alignment.apply(sparse.csr_matrix([[5, 0], [0, 7]])).toarray()
    array([[0., 5.],
           [7., 0.]], dtype=float32)
    """

    target: NDArray[np.int32]  # vocabulary position of every input column, -1 where it is dropped, (n_vars,)
    route: NDArray[np.str_]  # how every column was matched ("symbol", "previous" ...), "" where dropped, (n_vars,)
    scheme: str  # "ensembl", "symbol", "mouse_ensembl", "mouse_symbol" or "unknown"
    n_vocabulary: int
    names: NDArray[np.object_]  # of the input columns, (n_vars,)
    superseded: NDArray[np.int64]  # columns dropped as old name or alias of a gene that another column names

    @property
    def kept(self) -> NDArray[np.int64]:
        """Input columns that are used."""
        return np.flatnonzero(self.target >= 0)

    @property
    def dropped(self) -> NDArray[np.int64]:
        """Input columns that are not used."""
        return np.flatnonzero(self.target < 0)

    @functools.cached_property
    def measured(self) -> NDArray[np.int32]:
        """Vocabulary positions present in the data, sorted."""
        return np.flatnonzero(self.columns_of_gene).astype(np.int32)

    @functools.cached_property
    def columns_of_gene(self) -> NDArray[np.int64]:
        """Number of columns of every gene of the vocabulary, (n_vocabulary,)."""
        return np.bincount(self.target[self.target >= 0], minlength=self.n_vocabulary)

    @functools.cached_property
    def shared(self) -> NDArray[np.bool_]:
        """Input columns whose gene has other columns, too, (n_vars,)."""
        return (self.target >= 0) & (self.columns_of_gene[self.target] > 1)

    @property
    def missing(self) -> NDArray[np.int64]:
        """Vocabulary positions absent from the data, sorted."""
        return np.flatnonzero(self.columns_of_gene == 0)

    @property
    def overlap(self) -> float:
        """Genes matched, as a share of the smaller of data set and vocabulary."""
        smaller = min(len(self.names), self.n_vocabulary)
        return len(self.measured) / smaller if smaller else 0.0

    def names_of(self, positions: NDArray[np.integer]) -> list[str]:
        """What the data set calls genes that it measured; the first of several columns of a gene."""
        measured, first = np.unique(self.target, return_index=True)
        return [str(name) for name in self.names[first[np.searchsorted(measured, positions)]]]

    def summary(self) -> str:
        """One line for the log."""
        routes = Counter(self.route[self.kept].tolist())
        by_route = ", ".join(f"{route} {n:,}" for route, n in routes.most_common())
        return (
            f"{len(self.kept):,} of {len(self.names):,} genes matched ({by_route or 'no route'}), "
            f"{len(self.dropped):,} dropped, "
            f"{len(self.missing):,} of {self.n_vocabulary:,} vocabulary genes not measured"
        )

    def report(self) -> dict[str, Any]:
        """Provenance of the match, in types that AnnData writes to disk.

        Counts (``n_input``, ``n_kept``, ``n_dropped``, ``n_superseded``, ``n_duplicates``, ``n_missing``,
        ``n_vocabulary``), ``overlap``, ``scheme``, ``routes`` (columns per route), and two arrays of length ``n_vars``:
        ``route_gene`` (names) and ``route`` (empty where dropped).
        """
        return {
            "scheme": self.scheme,
            "n_input": len(self.names),
            "n_kept": len(self.kept),
            "n_dropped": len(self.dropped),
            "n_superseded": len(self.superseded),
            "n_duplicates": len(self.kept) - len(self.measured),
            "n_missing": len(self.missing),
            "n_vocabulary": self.n_vocabulary,
            "overlap": self.overlap,
            "routes": dict(Counter(self.route[self.kept].tolist()).most_common()),
            "route_gene": self.names.astype(str),
            "route": self.route,
        }

    def apply(self, block: sparse.csr_matrix | sparse.csr_array) -> sparse.csr_matrix:
        """Bring rows of the data set, (n, n_vars) CSR of any numeric type, into vocabulary order.

        float32 CSR, (n, n_vocabulary), with sorted indices and no stored zeros. Columns of the same gene are summed,
        smallest value first, so that the order of the input columns cannot change a single bit.
        """
        if block.shape[1] != len(self.target):
            msg = (
                f"The block has {block.shape[1]:,} columns, but the alignment was made for {len(self.target):,}. "
                "Align the AnnData the block comes from: `vocabulary.align(adata)`."
            )
            raise ValueError(msg)
        from scfoundry.data.genes.align_kernel import align_cells, close_gaps

        values, columns, indptr = kernel_arrays(block)
        genes, counts = np.empty(len(columns), dtype=np.int32), np.empty(len(columns), dtype=np.float32)
        lengths, shared = np.zeros(block.shape[0], dtype=np.int64), self.shared
        over_pieces(
            lambda first, last: align_cells(
                first, last, values, columns, indptr, self.target, shared, self.n_vocabulary, genes, counts, lengths
            ),
            indptr,
            VALUES_PER_PIECE,
        )
        for moved in (genes, counts):
            moved.resize(close_gaps(moved, indptr, lengths), refcheck=False)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return canonical(counts, genes, starts, (block.shape[0], self.n_vocabulary))
