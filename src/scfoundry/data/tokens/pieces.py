"""Cells spread over threads, a piece of about the same number of values at a time."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["VALUES_PER_PIECE", "over_pieces"]

VALUES_PER_PIECE = 1 << 16
"""About a millisecond of work: dearer than handing it to a thread, short to wait for at the end."""


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
