"""Cells of several data sets as if they were one, and only the genes that all of them measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scfoundry.data.matrix.contexts import Context

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.matrix.reader import CountsReader

__all__ = ["JointReader", "joined"]


class JointReader:
    """Reads as a `CountsReader` does.

    Parameters
    ----------
    readers
        Checked and aligned data sets, one after the other.
    genes
        Vocabulary positions of the genes to read, (g,); the others count as not measured.
    """

    def __init__(self, readers: Sequence[CountsReader], genes: NDArray[np.int64]) -> None:
        self.readers = readers
        self.starts = np.cumsum([0, *(reader.n_obs for reader in readers)])
        self.n_obs = int(self.starts[-1])
        self.n_vocabulary = readers[0].alignment.n_vocabulary
        shown = np.zeros(self.n_vocabulary, dtype=np.float32)
        shown[genes] = 1
        self._shown = sparse.diags(shown).tocsr()

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Counts of some cells over the vocabulary, (len(rows), G) float32."""
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        order = np.argsort(owner, kind="stable")
        parts = [
            reader.read(rows[owner == i] - self.starts[i])
            for i, reader in enumerate(self.readers)
            if np.any(owner == i)
        ]
        if not parts:
            return sparse.csr_matrix((0, self.n_vocabulary), dtype=np.float32)
        counts = sparse.vstack(parts, format="csr")[np.argsort(order, kind="stable")]
        counts = sparse.csr_matrix(counts @ self._shown)
        counts.eliminate_zeros()
        return counts

    def blocks(self, rows: NDArray[np.int64], block_size: int) -> Iterator[sparse.csr_matrix]:
        """Counts of consecutive blocks of ``rows``."""
        for start in range(0, len(rows), block_size):
            yield self.read(rows[start : start + block_size])


def joined(labelled: Sequence[Context], query: Sequence[Context], n_labelled: int) -> list[Context]:
    """Contexts of two data sets that stand one after the other; those of the same name are one.

    Parameters
    ----------
    labelled, query
        Contexts of each.
    n_labelled
        Cells of the first.
    """
    later = {context.name: context.rows + n_labelled for context in query}
    both = [
        Context(context.name, np.concatenate([context.rows, later.pop(context.name, context.rows[:0])]))
        for context in labelled
    ]
    return both + [Context(name, rows) for name, rows in later.items()]
