"""Cells spread over threads, a piece of about the same number of values at a time."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["VALUES_PER_PIECE", "canonical", "kernel_arrays", "over_pieces"]

# About a millisecond of work: dearer than handing it to a thread, short to wait for at the end.
VALUES_PER_PIECE = 1 << 16


def kernel_arrays(cells: sparse.csr_matrix) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int64]]:
    """Values, columns and row pointers in the few types that kernels are compiled for; not copied where they fit."""
    values = cells.data if cells.dtype == np.float32 else cells.data.astype(np.float64, copy=False)
    columns, indptr = cells.indices.astype(np.int32, copy=False), cells.indptr.astype(np.int64, copy=False)
    return _writeable(values), _writeable(columns), indptr


def _writeable(values: NDArray[Any]) -> NDArray[Any]:
    """The same memory: read-only arrays are a type of their own to numba."""
    if values.flags.writeable:
        return values
    values = values.view()
    try:
        values.flags.writeable = True
    except ValueError:  # a file that is mapped, or memory of another library
        values = values.copy()
    return values


def canonical(
    values: NDArray[Any], columns: NDArray[np.integer], indptr: NDArray[np.integer], shape: tuple[int, int]
) -> sparse.csr_matrix:
    """CSR matrix around arrays that are known to be in order: scipy would go over all of them to see."""
    matrix = sparse.csr_matrix(shape, dtype=values.dtype)
    wide = len(values) > np.iinfo(np.int32).max
    matrix.data, matrix.indices = values, columns.astype(np.int64 if wide else np.int32, copy=False)
    matrix.indptr = indptr.astype(matrix.indices.dtype, copy=False)
    matrix.has_canonical_format = True
    return matrix


def over_pieces(work: Callable[[int, int], None], indptr: NDArray[np.int64], values_per_piece: int) -> None:
    """Call compiled work, which lets go of the interpreter, for all cells: from the first up to the last of a piece."""
    from numba import config

    n_cells = len(indptr) - 1
    n_pieces = -(-int(indptr[-1]) // values_per_piece)
    bounds = np.searchsorted(indptr, np.linspace(0, indptr[-1], n_pieces + 1))
    bounds[:1], bounds[-1:] = 0, n_cells
    # Plain threads, not those of numba: its OpenMP layer would set the number of threads that torch uses in this
    # process. Whoever brings threads of their own, as dask does, has spread the cells over the cores already.
    n_cores: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # numba makes its settings at import
    n_threads = n_cores if threading.current_thread() is threading.main_thread() else 1
    if min(n_threads, n_pieces) > 1:
        with ThreadPoolExecutor(n_threads) as threads:
            list(threads.map(lambda piece: work(*piece), itertools.pairwise(bounds)))
    else:
        work(0, n_cells)
