"""Cells x genes matrices read as CSR row blocks, wherever and however they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.matrix.located import LocatedMatrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    Rows = NDArray[np.int64]

__all__ = ["read_rows", "row_blocks"]


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
    cells as make 4 million stored values, or 16 million of a dense matrix, if ``block_size`` is `None`.
    """
    located = LocatedMatrix.of(adata, layer)
    wanted = located if rows is None else located.take(_checked_rows(rows, adata.n_obs))
    if block_size is not None and block_size < 1:
        msg = f"block_size must be at least 1 cell; got {block_size}. Leave it at None for blocks of some tens of MB."
        raise ValueError(msg)
    return _numbered(wanted.blocks(block_size), rows)


def read_rows(adata: AnnData, rows: np.ndarray, *, layer: str | None = None) -> sparse.csr_matrix:
    """Read some cells, in any order, into memory, (len(rows), n_vars)."""
    return LocatedMatrix.of(adata, layer).take(_checked_rows(rows, adata.n_obs)).read()


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
