"""Counts in a model's gene order, read cell by cell or block by block."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from scipy import sparse

from scfoundry.data.genes.overlap import warn_of_orthologs
from scfoundry.data.growing import Growing
from scfoundry.data.matrix.checks import inspected, read_checked, report_by_workers, to_linear
from scfoundry.data.matrix.kept_blocks import KeptBlocks
from scfoundry.data.matrix.located import LocatedMatrix
from scfoundry.data.matrix.row_blocks import rows_of
from scfoundry.data.pieces import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._workers import Workers
    from scfoundry.data.genes import GeneAlignment, GeneVocabulary
    from scfoundry.data.matrix.checks import MatrixState
    from scfoundry.data.matrix.state import Inspection

__all__ = ["CountsInMemory", "CountsReader", "Reader"]

HELD_VALUES = 2**26
"""Values that are kept in memory once they are aligned, by each thread of a worker too: 0.5 GB with their genes."""


class Reader(Protocol):
    """Counts of n_obs cells over the G genes of a vocabulary."""

    @property
    def n_obs(self) -> int:
        """Number of cells."""

    @property
    def n_vocabulary(self) -> int:
        """Genes of the vocabulary, G."""

    @property
    def measured(self) -> NDArray[np.int64]:
        """Vocabulary positions of the genes that are read, ascending."""

    @property
    def workers(self) -> Workers | None:
        """Who reads the cells part by part; this process if `None`."""

    def apart(self, rows: NDArray[np.int64]) -> Reader:
        """Some of the cells, as they are sent to a worker."""

    def kept_by_worker(self, rows: NDArray[np.int64]) -> Any:
        """What a worker keeps of these cells, for `CountsReader.fill`; `None` if none does."""

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Counts of some cells, (len(rows), G) float32, not to be changed."""

    def blocks(self, rows: NDArray[np.int64], block_size: int) -> Iterator[sparse.csr_matrix]:
        """Counts of consecutive blocks of ``rows``, not to be changed."""

    def by_blocks(self) -> NDArray[np.int64] | None:
        """Begin to read in blocks of cells and to keep the last ones: the block of every cell, (n_obs,).

        `None` where single cells are read as fast, since all are in memory.
        """

    def only(self, genes: NDArray[np.integer]) -> Self:
        """The same cells on a smaller panel: counts of genes at other vocabulary positions read as 0."""

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the cells."""


class CountsReader:
    """Checks an AnnData once, aligns its genes once, then reads any of its cells.

    The AnnData is only read. Log1p-normalised values are inverted; everything else that is not counts is refused, as
    are data with too few genes of the vocabulary.
    """

    def __init__(
        self,
        adata: AnnData,
        vocabulary: GeneVocabulary,
        *,
        layer: str | None = None,
        caller: str,
        allow_log1p: bool = True,
        workers: Workers | None = None,
    ) -> None:
        self.alignment, self.n_obs, self.workers = vocabulary.align(adata), adata.n_obs, workers
        self._located = LocatedMatrix.of(adata, layer)
        how: dict[str, Any] = {"layer": layer, "caller": caller, "allow_log1p": allow_log1p}
        self._held: sparse.csr_matrix | None = None
        self._by_workers: dict[tuple[int, int], Any] = {}
        if workers is not None:
            spans = workers.spans(self.n_obs)
            self._by_workers = _kept_by(workers, spans, self._located, self.alignment)
            later = (self._located.apart(rows) for rows in spans[len(self._by_workers) :])
            self.report = report_by_workers(adata, chain(self._by_workers.values(), later), workers, **how)
        else:
            held = partial(_Held, self.alignment, HELD_VALUES)
            self.report, taken = read_checked(adata, self._located, held, **how)
            # What fits in memory once it is aligned is read and aligned no second time.
            self._held = taken.result()
        self._shown: NDArray[np.bool_] | None = None
        self._rows: NDArray[np.int64] | None = None
        self._kept: KeptBlocks | None = None
        if vocabulary.species == "human" and self.alignment.scheme.startswith("mouse"):
            warn_of_orthologs(self._share_of_counts(), caller=caller)

    @property
    def n_vocabulary(self) -> int:
        """See `Reader`."""
        return self.alignment.n_vocabulary

    @property
    def measured(self) -> NDArray[np.int64]:
        """See `Reader`."""
        measured = self.alignment.measured.astype(np.int64)
        return measured if self._shown is None else measured[self._shown[measured]]

    def only(self, genes: NDArray[np.integer]) -> Self:
        """See `Reader`."""
        smaller = copy.copy(self)
        smaller._kept = None
        smaller._shown = np.zeros(self.n_vocabulary, dtype=bool)
        smaller._shown[genes] = True
        return smaller

    def over(self, vocabulary: GeneVocabulary) -> Self:
        """The same cells over another vocabulary."""
        other = copy.copy(self)
        # Which columns share a gene was said when the cells were opened.
        other.alignment = vocabulary.align(self.alignment.names, say_shared=False)
        other._shown = other._held = None
        other._kept, other._by_workers = None, {}
        return other

    def take(self, rows: NDArray[np.int64]) -> Self:
        """See `Reader`."""
        fewer = copy.copy(self)
        fewer._rows = self._stored(rows)
        fewer.n_obs = len(rows)
        return fewer

    def apart(self, rows: NDArray[np.int64]) -> Self:
        """See `Reader`."""
        part = copy.copy(self)
        part._located, part.n_obs = self._located.apart(self._stored(rows)), len(rows)
        part._rows = part._held = part._kept = part.workers = None
        part._by_workers = {}
        return part

    def kept_by_worker(self, rows: NDArray[np.int64]) -> Any:
        """See `Reader`."""
        stored = self._stored(rows)
        if not self._by_workers or not len(stored) or np.any(np.diff(stored) != 1):
            return None
        return self._by_workers.get((int(stored[0]), len(stored)))

    def fill(self, kept: tuple[Inspection, sparse.csr_matrix | None]) -> None:
        """In a worker: what it keeps of these cells is not read again."""
        inspection, counts = kept
        # By themselves the cells may have looked otherwise than all do.
        if inspection.found[0] is self.report.state:
            self._held = counts

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """See `Reader`."""
        stored = self._stored(rows)
        if self._held is not None:
            return self._only_shown(rows_of(self._held, stored))
        return self._stored_rows(stored) if self._kept is None else self._kept.read(stored)

    def by_blocks(self) -> NDArray[np.int64] | None:
        """See `Reader`."""
        if self._held is not None or self._located.in_memory:
            return None
        if self._kept is None:
            self._kept = KeptBlocks(self._stored_rows, self._located.n_obs, self._located.rows_together)
        return self._stored(np.arange(self.n_obs)) // self._kept.size

    def blocks(self, rows: NDArray[np.int64], block_size: int) -> Iterator[sparse.csr_matrix]:
        """See `Reader`."""
        stored = self._stored(rows)
        if self._held is not None:
            for start in range(0, len(stored), block_size):
                yield self._only_shown(rows_of(self._held, stored[start : start + block_size]))
            return
        for block in self._located.take(stored).blocks(block_size):
            yield self._aligned(block)

    def own_blocks(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], sparse.csr_matrix]]:
        """Row numbers and counts of blocks of cells over the data set's own genes, (n, n_vars)."""
        start = 0
        for block in self._located.take(self._stored(rows)).blocks():
            here = rows[start : start + block.shape[0]]
            yield here, to_linear(block, self.report.state)
            start += len(here)

    def own_columns(self, columns: NDArray[np.int64]) -> sparse.csr_matrix:
        """Counts of all cells over some of the data set's own genes, (n_obs, len(columns)) float32, in memory."""
        return sparse.vstack([block[:, columns] for _, block in self.own_blocks(np.arange(self.n_obs))], format="csr")

    def _share_of_counts(self) -> float:
        """Share of all counts that are of genes of the vocabulary."""
        of_column = np.zeros(len(self.alignment.names))
        for _, block in self.own_blocks(np.arange(self.n_obs)):
            of_column += np.asarray(block.sum(0, dtype=np.float64)).ravel()
        return float(of_column[self.alignment.kept].sum() / max(of_column.sum(), 1))

    def _stored_rows(self, stored: NDArray[np.int64]) -> sparse.csr_matrix:
        return self._aligned(self._located.take(stored).read())

    def _stored(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers of the AnnData."""
        return rows if self._rows is None else self._rows[rows]

    def _aligned(self, block: sparse.csr_matrix) -> sparse.csr_matrix:
        return self._only_shown(self.alignment.apply(to_linear(block, self.report.state)))

    def _only_shown(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        return counts if self._shown is None else keep_genes(counts, self._shown)


class _Held:
    """Aligned counts of cells, as long as there are not too many of them."""

    def __init__(self, alignment: GeneAlignment, most_values: int, state: MatrixState) -> None:
        self._alignment, self._state, self._full, self._most_values = alignment, state, False, most_values
        self._counts, self._genes, self._lengths = Growing(np.float32), Growing(np.int32), [np.zeros(1, dtype=np.int64)]

    def add(self, block: sparse.csr_matrix) -> None:
        """Take in the next cells."""
        if self._full or len(self._counts) + block.nnz > self._most_values:
            self._full, self._counts, self._genes = True, Growing(np.float32), Growing(np.int32)
            return
        counts = self._alignment.apply(to_linear(block, self._state))
        self._counts.extend(counts.data)
        self._genes.extend(counts.indices)
        self._lengths.append(np.diff(counts.indptr))

    def result(self) -> sparse.csr_matrix | None:
        """Counts of all cells, (n_obs, G); `None` if there were too many."""
        if self._full:
            return None
        indptr = np.cumsum(np.concatenate(self._lengths))
        shape = (len(indptr) - 1, self._alignment.n_vocabulary)
        return canonical(self._counts.values(), self._genes.values(), indptr, shape)


def _kept_by(
    workers: Workers, spans: list[NDArray[np.int64]], located: LocatedMatrix, alignment: GeneAlignment
) -> dict[tuple[int, int], Any]:
    """What workers keep of the first cells on disk, by where a piece of these begins and how many they are."""
    if located.in_memory or not spans:
        return {}
    # Pieces of a thread. Each may hold a quarter more than the mean, and more where there are few of them.
    n_kept = min(-(-len(spans) // workers.n_threads), HELD_VALUES * 4 // (5 * located.values_per_cell * len(spans[0])))
    if n_kept == 0:
        return {}
    first = spans[: n_kept * workers.n_threads]
    parts = [located.apart(rows) for rows in first]
    kept = workers.hold(_read_aligned, parts, alignment, HELD_VALUES // n_kept, evenly=True)
    return {(int(rows[0]), len(rows)): part for rows, part in zip(first, kept, strict=True)}


def _read_aligned(
    located: LocatedMatrix, alignment: GeneAlignment, most_values: int
) -> tuple[Inspection, sparse.csr_matrix | None]:
    """In a worker: what the values of some cells are, and their aligned counts, unless these are too many."""
    inspection, held = inspected(located, partial(_Held, alignment, most_values))
    return inspection, held and held.result()


@dataclass(frozen=True, eq=False)
class CountsInMemory:
    """Counts over a vocabulary, (n_obs, G), that are held in memory and read as those of a `CountsReader`."""

    counts: sparse.csr_matrix
    measured: NDArray[np.int64]  # vocabulary positions, ascending
    workers: Workers | None = None

    @property
    def n_obs(self) -> int:
        """See `Reader`."""
        return self.counts.shape[0]

    @property
    def n_vocabulary(self) -> int:
        """See `Reader`."""
        return self.counts.shape[1]

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """See `Reader`."""
        return rows_of(self.counts, rows)

    def blocks(self, rows: NDArray[np.int64], block_size: int) -> Iterator[sparse.csr_matrix]:
        """See `Reader`."""
        for start in range(0, len(rows), block_size):
            yield rows_of(self.counts, rows[start : start + block_size])

    def by_blocks(self) -> None:
        """See `Reader`."""

    def only(self, genes: NDArray[np.integer]) -> Self:
        """See `Reader`."""
        shown = np.zeros(self.n_vocabulary, dtype=bool)
        shown[genes] = True
        return replace(self, counts=keep_genes(self.counts, shown), measured=self.measured[shown[self.measured]])

    def take(self, rows: NDArray[np.int64]) -> Self:
        """See `Reader`."""
        return replace(self, counts=self.counts[rows])

    def apart(self, rows: NDArray[np.int64]) -> Self:
        """See `Reader`."""
        return replace(self, counts=self.counts[rows], workers=None)

    def kept_by_worker(self, rows: NDArray[np.int64]) -> None:
        """See `Reader`."""


def keep_genes(counts: sparse.csr_matrix, shown: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Counts of the genes ``shown`` (G,), without stored zeros for the others."""
    kept = counts.copy()
    kept.data[~shown[kept.indices]] = 0
    kept.eliminate_zeros()
    return kept
