"""Rows and columns of a matrix, wherever it lies; what lies on disk can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import h5py
import numpy as np
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import sparse_dataset
from scipy import sparse

from scfoundry._arguments import quoted
from scfoundry._compat import layer_names
from scfoundry.data.matrix.row_blocks import blocks_of, default_block_size, is_readable, stacked, values_per_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

__all__ = ["LocatedMatrix", "locate", "matrix_of"]

ROWS_TOGETHER = 256


@dataclass(frozen=True, eq=False)
class LocatedMatrix:
    """Values of the cells and genes that an AnnData stands for; none is read before it is asked for."""

    matrix: Any
    rows: NDArray[np.int64]  # of the matrix, those of the cells
    columns: NDArray[np.int64] | None  # of the matrix, those of the genes; all if `None`

    @classmethod
    def of(cls, adata: AnnData, layer: str | None) -> Self:
        """Of ``X`` or a layer. CSC in memory becomes rows once, not anew for every block."""
        matrix, rows, columns = locate(adata, layer)
        if sparse.issparse(matrix) and matrix.format != "csr":
            matrix, columns = (matrix if columns is None else matrix[:, columns]).tocsr(), None
        return cls(matrix, rows, columns)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.rows)

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return self._opened().shape[1] if self.columns is None else len(self.columns)

    @property
    def in_memory(self) -> bool:
        """Whether the values are in memory: then another process cannot read them by itself."""
        return isinstance(self.matrix, np.ndarray) or sparse.issparse(self.matrix)

    @property
    def rows_together(self) -> int:
        """Rows that a file or store gives at little more than the cost of one."""
        chunks = getattr(self._opened(), "chunks", None)
        # Of a dask array a chunk is computed as a whole; HDF5 and zarr read any slice.
        return max(chunks[0]) if chunks and isinstance(chunks[0], tuple) else ROWS_TOGETHER

    @property
    def values_per_cell(self) -> int:
        """Values that are stored, in the mean over all cells of the matrix."""
        return max(1, ceil(values_per_row(self._opened())))

    def blocks(self, size: int | None = None) -> Iterator[sparse.csr_matrix]:
        """Values of consecutive cells, some tens of MB at a time if ``size`` is `None`; see `row_blocks`."""
        matrix = self._opened()
        return blocks_of(matrix, self.rows, self.columns, size or default_block_size(matrix))

    def read(self) -> sparse.csr_matrix:
        """Values of all cells."""
        # Files and chunks are read front to back whatever the order asked for.
        wanted, place = np.unique(self.rows, return_inverse=True)
        blocks = list(replace(self, rows=wanted).blocks())
        if not blocks:
            return sparse.csr_matrix((0, self.n_vars), dtype=self._opened().dtype)
        block = stacked(blocks)
        if np.array_equal(place, np.arange(len(wanted))):
            return block if block.data.flags.writeable else block.copy()
        return block[place]

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the cells."""
        return replace(self, rows=self.rows[rows])

    def apart(self, rows: NDArray[np.int64]) -> LocatedMatrix:
        """Some of the cells, without the memory of the others: what is sent to another process."""
        part = self.take(rows)
        return LocatedMatrix(part.read(), np.arange(len(rows)), None) if self.in_memory else part

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"matrix": _InFile.of(self.matrix)}

    def _opened(self) -> Any:
        """The matrix; of one that was sent, opened for as long as it is read."""
        return self.matrix.opened() if isinstance(self.matrix, _InFile) else self.matrix


class _InFile(NamedTuple):
    """Where a matrix lies in an HDF5 file, whose handles end with the process. Those of zarr can be sent."""

    path: str
    name: str

    @classmethod
    def of(cls, matrix: Any) -> Any:
        """Place of a matrix in a file; the matrix itself where it can be sent."""
        node = matrix.group if isinstance(matrix, CSRDataset | CSCDataset) else matrix
        return cls(node.file.filename, node.name) if isinstance(node, h5py.Group | h5py.Dataset) else matrix

    def opened(self) -> Any:
        """The matrix, opened anew: a file that was kept open could not be written again, nor its new values be seen."""
        node = h5py.File(self.path, "r")[self.name]
        return sparse_dataset(node) if isinstance(node, h5py.Group) else node


def matrix_of(adata: AnnData, layer: str | None = None) -> Any:
    """Array object behind ``X`` or a layer, (n_obs, n_vars), as AnnData hands it out; there is no fallback to ``raw``.

    For a view this reads the whole view into memory: prefer :func:`row_blocks` for anything but a look at the type.
    """
    names = layer_names(adata)
    present = quoted(names)
    if layer is None:
        if adata.X is None:
            msg = f"adata.X is None and no layer was chosen. Pass layer=...; layers of this AnnData: {present}."
            raise ValueError(msg)
        return adata.X
    if layer not in names:
        msg = (
            f"adata.layers has no {layer!r}; layers of this AnnData: {present}. Pass one of them, or None for adata.X."
        )
        raise ValueError(msg)
    return adata.layers[layer]


def locate(adata: AnnData, layer: str | None) -> tuple[Any, Rows, Rows | None]:
    """Matrix as stored, and its rows and columns (`None`: all) that `adata` stands for; no values are read."""
    genes: Rows | None = None
    if adata.is_view:
        # AnnData offers no public way to a view's parent, and indexing the view instead is no substitute: asked for a
        # subset of genes, anndata loads a backed CSR matrix whole.
        parent = adata._adata_ref
        matrix = matrix_of(parent, layer)
        cells, columns = (
            np.arange(n)[index if isinstance(index, slice) else np.asarray(index)]
            for n, index in zip(parent.shape, (adata._oidx, adata._vidx), strict=True)
        )
        genes = None if np.array_equal(columns, np.arange(parent.n_vars)) else columns
    else:
        matrix, cells = matrix_of(adata, layer), np.arange(adata.n_obs)
    if not is_readable(matrix):
        where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        msg = (
            f"{where} is a {type(matrix).__module__}.{type(matrix).__qualname__}, which cannot be read in blocks of "
            f"cells. Convert it first, for example: {where} = scipy.sparse.csr_matrix({where})."
        )
        raise TypeError(msg)
    return matrix, cells, genes
