"""Rows out of every kind of matrix an AnnData can hold, as CSR blocks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import zarr
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from scfoundry.data.matrix.numbers import as_real_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

__all__ = ["BLOCK_VALUES", "blocks_of", "default_block_size", "is_readable", "rows_of", "stacked", "values_per_row"]

BLOCK_VALUES = 2**22
"""Stored values in a block by default: 32 MB as float32 with their column indices."""

_DENSE_PER_STORED = 4
"""Values of a dense matrix, most of them 0, that count as one that is stored."""

_PASS_VALUES = 2**26
"""Values turned into rows in one pass over a CSC matrix on disk: 0.5 GB as float32 with their column indices."""

_ROWS_BETWEEN = 256
"""Rows on disk that cost less to read than a second request."""

_ARRAYS = (np.ndarray, h5py.Dataset, zarr.Array, CSRDataset, CSCDataset)


def is_readable(matrix: Any) -> bool:
    """Whether :func:`blocks_of` knows how to read this kind of matrix."""
    return isinstance(matrix, _ARRAYS) or sparse.issparse(matrix) or _is_dask(matrix)


def default_block_size(matrix: Any) -> int:
    """Rows that make a block of about `BLOCK_VALUES` stored values, or 64 MB of dense ones as float32."""
    return max(1, int(BLOCK_VALUES / max(1, values_per_row(matrix))))


def values_per_row(matrix: Any) -> float:
    """Values that are stored, in the mean over all rows."""
    n_rows, n_columns = matrix.shape
    if sparse.issparse(matrix):
        n_values = matrix.nnz
    elif isinstance(matrix, CSRDataset | CSCDataset):
        n_values = matrix.group["data"].shape[0]
    else:
        return n_columns / _DENSE_PER_STORED
    return n_values / max(1, n_rows)


def blocks_of(matrix: Any, rows: Rows, genes: Rows | None, size: int) -> Iterator[sparse.csr_matrix]:
    """Read rows of a matrix in the given order, `size` at a time; `genes` selects columns, all if `None`.

    Blocks may share the memory of the matrix, and are read-only then.
    """
    if _is_dask(matrix):
        pieces = _dask_pieces(matrix, rows, genes, size)
    elif isinstance(matrix, CSCDataset):
        pieces = _csc_pieces(matrix, rows, genes, size)
    else:
        if sparse.issparse(matrix) and matrix.format != "csr":
            # Once for all blocks: every row slice of a CSC matrix scans all of its values.
            matrix, genes = (matrix if genes is None else matrix[:, genes]).tocsr(), None
        pieces = (_read(matrix, rows[start : start + size], genes) for start in range(0, len(rows), size))
    for block in _of_size(pieces, size):
        if not block.has_canonical_format:
            block = block.copy()
            block.sum_duplicates()
        yield block


def _is_dask(matrix: Any) -> bool:
    # dask is optional, and none of its arrays can exist before it has been imported.
    dask_array = sys.modules.get("dask.array")
    return dask_array is not None and isinstance(matrix, dask_array.Array)


def _of_size(pieces: Iterable[sparse.csr_matrix], size: int) -> Iterator[sparse.csr_matrix]:
    """Cut and join consecutive pieces to blocks of `size` rows; the last one may be smaller."""
    held: list[sparse.csr_matrix] = []
    n_held = 0
    for piece in pieces:
        start = 0
        while start < piece.shape[0]:
            stop = min(start + size - n_held, piece.shape[0])
            held.append(piece[start:stop] if stop - start < piece.shape[0] else piece)
            n_held += stop - start
            start = stop
            if n_held == size:
                yield stacked(held)
                held, n_held = [], 0
    if held:
        yield stacked(held)


def stacked(pieces: list[sparse.csr_matrix]) -> sparse.csr_matrix:
    """Join pieces from top to bottom, without a copy of a single one."""
    return pieces[0] if len(pieces) == 1 else sparse.vstack(pieces, format="csr")


def _read(matrix: Any, rows: Rows, genes: Rows | None) -> sparse.csr_matrix:
    """Rows of a matrix that gives them cheaply: numpy, CSR, and dense or CSR on disk."""
    index = _slice_if_consecutive(rows)
    if isinstance(index, slice) and (sparse.issparse(matrix) or isinstance(matrix, CSRDataset)):
        values = _consecutive(matrix, index)
        if sparse.issparse(matrix):
            values.data.flags.writeable = values.indices.flags.writeable = False
    elif isinstance(index, slice) or isinstance(matrix, np.ndarray) or sparse.issparse(matrix):
        values = matrix[index]
    else:
        wanted, place = np.unique(rows, return_inverse=True)
        values = _ascending(matrix, wanted)[place]
    return _to_csr(values if genes is None else values[:, genes])


def _ascending(matrix: Any, rows: Rows) -> sparse.csr_matrix:
    """Rows of a matrix on disk, those that lie close together at once and what is between them for nothing."""
    pieces = []
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > _ROWS_BETWEEN) + 1):
        here = slice(int(run[0]), int(run[-1]) + 1)
        piece = _consecutive(matrix, here) if isinstance(matrix, CSRDataset) else _to_csr(matrix[here, :])
        pieces.append(piece if len(run) == piece.shape[0] else piece[run - run[0]])
    return stacked(pieces) if pieces else _to_csr(matrix[0:0, :])


def rows_of(matrix: sparse.csr_matrix, rows: Rows) -> sparse.csr_matrix:
    """Rows of a CSR matrix; values and columns of consecutive ones are those of the matrix, not a copy."""
    index = _slice_if_consecutive(rows)
    return _consecutive(matrix, index) if isinstance(index, slice) else matrix[index]


def _consecutive(matrix: sparse.csr_matrix | CSRDataset, rows: slice) -> sparse.csr_matrix:
    """Rows that follow each other; values and columns of a matrix in memory are not copied."""
    if isinstance(matrix, CSRDataset):
        # Not by anndata's own index: it looks up the version of scipy every time, as long as reading hundreds of cells.
        data, indices, indptr = (matrix.group[name] for name in ("data", "indices", "indptr"))
    else:
        data, indices, indptr = matrix.data, matrix.indices, matrix.indptr
    starts = indptr[rows.start : rows.stop + 1]
    here = slice(int(starts[0]), int(starts[-1]))
    columns = indices[here]
    columns = columns.astype(np.int64 if columns.itemsize > np.int32().itemsize else np.int32, copy=False)
    block = sparse.csr_matrix((rows.stop - rows.start, matrix.shape[1]), dtype=np.float32)
    block.data, block.indices = as_real_numbers(data[here]), columns
    block.indptr = (starts - starts[0]).astype(columns.dtype, copy=False)
    if sparse.issparse(matrix) and matrix.has_canonical_format:  # remembered by the matrix
        block.has_canonical_format = True
    return block


def _csc_pieces(matrix: CSCDataset, rows: Rows, genes: Rows | None, size: int) -> Iterator[sparse.csr_matrix]:
    """Rows of a CSC matrix on disk, many at a time, because each pass over them reads every column."""
    genes = np.arange(matrix.shape[1]) if genes is None else genes
    indptr = matrix.group["indptr"][:]
    ends = np.cumsum(np.diff(indptr)[genes])
    slabs = np.split(genes, np.flatnonzero(np.diff(ends // BLOCK_VALUES)) + 1)
    step = max(1, _PASS_VALUES * matrix.shape[0] // max(1, int(indptr[-1])))
    for start in range(0, len(rows), step):
        piece = _csc_rows(matrix, rows[start : start + step], slabs)
        for first in range(0, piece.shape[0], size):
            yield piece[first : first + size]
        del piece  # before the next one is made


def _csc_rows(matrix: CSCDataset, rows: Rows, slabs: list[Rows]) -> sparse.csr_matrix:
    index = _slice_if_consecutive(rows)
    columns = [sparse.csc_matrix(matrix[:, _slice_if_consecutive(slab)])[index] for slab in slabs]
    # Joined as CSC first: scipy's way to CSR goes over coordinates and takes three times the memory.
    joined = sparse.hstack(columns, format="csc")
    del columns
    return joined.tocsr()


def _dask_pieces(matrix: Any, rows: Rows, genes: Rows | None, size: int) -> Iterator[sparse.csr_matrix]:
    """Rows of a dask array, chunk by chunk, each computed once if the rows are in ascending order."""
    if np.all(rows[1:] >= rows[:-1]):
        yield from _dask_ascending(matrix, rows, genes)
        return
    for start in range(0, len(rows), size):
        wanted, place = np.unique(rows[start : start + size], return_inverse=True)
        yield stacked(list(_dask_ascending(matrix, wanted, genes)))[place]


def _dask_ascending(matrix: Any, rows: Rows, genes: Rows | None) -> Iterator[sparse.csr_matrix]:
    edges = np.cumsum([0, *matrix.chunks[0]])
    for i, (start, stop) in enumerate(zip(*np.searchsorted(rows, [edges[:-1], edges[1:]]), strict=True)):
        if start == stop:
            continue
        columns = [_to_csr(matrix.blocks[i, j].compute()) for j in range(matrix.numblocks[1])]
        chunk = columns[0] if len(columns) == 1 else sparse.hstack(columns, format="csr")
        piece = chunk[_slice_if_consecutive(rows[start:stop] - edges[i])]
        yield piece if genes is None else piece[:, genes]


def _slice_if_consecutive(index: Rows) -> Rows | slice:
    if index.size and np.all(np.diff(index) == 1):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


def _to_csr(values: Any) -> sparse.csr_matrix:
    values = as_real_numbers(values)
    return values if isinstance(values, sparse.csr_matrix) else sparse.csr_matrix(values)
