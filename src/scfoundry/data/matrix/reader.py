"""The counts of an AnnData in a model's gene order, read cell by cell or block by block."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from anndata import AnnData
from scipy import sparse

from scfoundry.data.matrix.checks import require_counts, to_linear
from scfoundry.data.matrix.loaders import matrix_of, read_rows, row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["CountsReader"]


class CountsReader:
    """Checks an AnnData once, aligns its genes once, then reads any of its cells.

    The AnnData is only read. Log1p-normalised values are inverted; everything else that is not counts is refused.

    Parameters
    ----------
    adata
        Cells x genes; in memory, backed or dask.
    vocabulary
        The model's genes.
    layer
        Layer with the counts, ``X`` if `None`.
    caller
        The user's function, for messages.

    Attributes
    ----------
    report
        What state the matrix is in.
    alignment
        How its genes map to the vocabulary.

    Raises
    ------
    ValueError
        If the values are neither counts nor log1p-normalised, or too few genes are in the vocabulary.
    """

    def __init__(self, adata: AnnData, vocabulary: GeneVocabulary, *, layer: str | None = None, caller: str) -> None:
        self.report = require_counts(adata, layer=layer, caller=caller, allow_log1p=True)
        self.alignment = vocabulary.align(adata)
        self.n_obs = adata.n_obs
        matrix: Any = None if adata.isbacked else matrix_of(adata, layer)
        if sparse.issparse(matrix) and matrix.format == "csc":
            # Contexts are read one after the other; by rows, CSC would be converted anew for each of them.
            self._adata, self._layer = AnnData(sparse.csr_matrix(matrix)), None
        else:
            self._adata, self._layer = adata, layer
        self._shown: NDArray[np.bool_] | None = None

    def only(self, genes: NDArray[np.integer]) -> Self:
        """The same cells on a smaller panel: counts of genes at other vocabulary positions read as 0."""
        smaller = copy.copy(self)
        smaller._shown = np.zeros(self.alignment.n_vocabulary, dtype=bool)
        smaller._shown[genes] = True
        return smaller

    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Counts of some cells over the vocabulary, (len(rows), G) float32."""
        return self._aligned(read_rows(self._adata, rows, layer=self._layer))

    def blocks(self, rows: np.ndarray, block_size: int) -> Iterator[sparse.csr_matrix]:
        """Counts of consecutive blocks of ``rows``."""
        for _, block in row_blocks(self._adata, layer=self._layer, rows=rows, block_size=block_size):
            yield self._aligned(block)

    def _aligned(self, block: sparse.csr_matrix) -> sparse.csr_matrix:
        counts = self.alignment.apply(to_linear(block, self.report.state))
        if self._shown is not None:
            counts.data[~self._shown[counts.indices]] = 0
            counts.eliminate_zeros()
        return counts
