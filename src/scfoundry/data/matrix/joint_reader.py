"""Cells of several data sets as if they were one, and only the genes that all of them measured."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy import sparse

from scfoundry.data.matrix.reader import keep_genes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.matrix.reader import Reader

__all__ = ["JointReader"]


class JointReader:
    """Reads data sets one after the other as a `CountsReader` reads one, over ``genes`` (vocabulary positions, (g,)).

    All other genes count as not measured.
    """

    workers = None  # the cells of two data sets are read here

    def __init__(self, readers: Sequence[Reader], genes: NDArray[np.int64]) -> None:
        self.readers = readers
        self.starts = np.cumsum([0, *(reader.n_obs for reader in readers)])
        self.n_obs = int(self.starts[-1])
        self.n_vocabulary = readers[0].n_vocabulary
        self.measured = np.unique(genes)
        self._rows: NDArray[np.int64] | None = None

    def by_blocks(self) -> None:
        """See `Reader`; cells of two data sets are read one by one."""

    def only(self, genes: NDArray[np.integer]) -> Self:
        """See `Reader`."""
        smaller = copy.copy(self)
        smaller.measured = np.intersect1d(self.measured, genes)
        return smaller

    def take(self, rows: NDArray[np.int64]) -> Self:
        """See `Reader`."""
        fewer = copy.copy(self)
        fewer._rows = rows if self._rows is None else self._rows[rows]
        fewer.n_obs = len(rows)
        return fewer

    def apart(self, rows: NDArray[np.int64]) -> Self:
        """See `Reader`."""
        return self.take(rows)

    def kept_by_worker(self, rows: NDArray[np.int64]) -> None:
        """See `Reader`."""

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """See `Reader`."""
        rows = rows if self._rows is None else self._rows[rows]
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(owner, kind="stable")
        parts = [
            reader.read(rows[owner == i] - self.starts[i])
            for i, reader in enumerate(self.readers)
            if np.any(owner == i)
        ]
        if not parts:
            return sparse.csr_matrix((0, self.n_vocabulary), dtype=np.float32)
        shown = np.zeros(self.n_vocabulary, dtype=bool)
        shown[self.measured] = True
        return keep_genes(sparse.vstack(parts, format="csr")[np.argsort(order, kind="stable")], shown)

    def blocks(self, rows: NDArray[np.int64], block_size: int) -> Iterator[sparse.csr_matrix]:
        """See `Reader`."""
        for start in range(0, len(rows), block_size):
            yield self.read(rows[start : start + block_size])
