"""Cells x genes matrices read as CSR row blocks, wherever and however they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scfoundry._compat import layer_names
from scfoundry.data.matrix.row_blocks import blocks_of, default_block_size, is_readable, stacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

__all__ = ["locate", "matrix_of", "read_rows", "row_blocks"]


def matrix_of(adata: AnnData, layer: str | None = None) -> Any:
    """Array object behind ``X`` or a layer, (n_obs, n_vars), as AnnData hands it out; there is no fallback to ``raw``.

    For a view this reads the whole view into memory: prefer :func:`row_blocks` for anything but a look at the type.
    """
    names = layer_names(adata)
    present = ", ".join(map(repr, names)) or "none"
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


def row_blocks(
    adata: AnnData, *, layer: str | None = None, rows: np.ndarray | None = None, block_size: int | None = None
) -> Iterator[tuple[np.ndarray | slice, sparse.csr_matrix]]:
    """Row numbers (a slice if ``rows`` is `None`) and values, (block, n_vars), of consecutive blocks of cells.

    Reads numpy arrays, CSR and CSC matrices and arrays, dask arrays of these, HDF5 and zarr on disk, and views of all
    of them. Values keep their type (half precision becomes float32, which is the smallest that scipy's sparse matrices
    hold); every block is in canonical form: column indices sorted, no duplicates. It may share the memory of the matrix
    and is read-only then. The AnnData is only read, no sparse matrix is ever made dense and no view is read as a whole.

    Memory beyond the block: a CSC matrix in memory is converted once, which takes a second copy of it; CSC on disk
    is turned into rows 64 million values at a time, which takes about 1 GB and reads the file once per such pass; of a
    dask array, one chunk of rows.

    ``rows`` come in this order and as often as they occur; all cells in obs order if `None`. A block holds as many
    cells as make about 64 MB of values if ``block_size`` is `None`.
    """
    matrix, cells, genes = locate(adata, layer)
    wanted = cells if rows is None else cells[_checked_rows(rows, adata.n_obs)]
    size = default_block_size(matrix) if block_size is None else block_size
    if size < 1:
        msg = f"block_size must be at least 1 cell; got {block_size}. Leave it at None for blocks of about 64 MB."
        raise ValueError(msg)
    return _numbered(blocks_of(matrix, wanted, genes, size), rows)


def read_rows(adata: AnnData, rows: np.ndarray, *, layer: str | None = None) -> sparse.csr_matrix:
    """Read some cells, in any order, into memory, (len(rows), n_vars)."""
    # Files and chunks are read front to back whatever the order asked for.
    wanted, place = np.unique(_checked_rows(rows, adata.n_obs), return_inverse=True)
    blocks = [block for _, block in row_blocks(adata, layer=layer, rows=wanted)]
    if not blocks:
        return sparse.csr_matrix((0, adata.n_vars), dtype=locate(adata, layer)[0].dtype)
    block = stacked(blocks)
    if np.array_equal(place, np.arange(len(wanted))):
        return block if block.data.flags.writeable else block.copy()
    return block[place]


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


def _checked_rows(rows: np.ndarray, n_obs: int) -> Rows:
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        msg = (
            f"rows must be a one-dimensional array of row numbers; got {rows.dtype} of shape {rows.shape}. "
            "For a boolean mask pass np.flatnonzero(mask)."
        )
        raise ValueError(msg)
    if rows.size and (rows.min() < 0 or rows.max() >= n_obs):
        msg = f"rows must lie between 0 and {n_obs - 1}, the last cell of adata; got {rows.min()} to {rows.max()}."
        raise ValueError(msg)
    return rows.astype(np.int64)


def _numbered(
    blocks: Iterator[sparse.csr_matrix], rows: np.ndarray | None
) -> Iterator[tuple[np.ndarray | slice, sparse.csr_matrix]]:
    start = 0
    for block in blocks:
        here = slice(start, start + block.shape[0])
        yield here if rows is None else np.asarray(rows)[here], block
        start = here.stop
