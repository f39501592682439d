"""Passes over the cells of a data set: in one go, or part by part by workers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from scfoundry._workers import Workers
    from scfoundry.data.matrix.reader import CountsReader, Reader

__all__ = ["over_parts", "spans"]

T = TypeVar("T")

CELLS_PER_PART = 16_384


def spans(rows: NDArray[np.int64], workers: Workers | None) -> list[NDArray[np.int64]]:
    """Rows, some after others, as many at a time as suit the workers, or one process that does not hold all."""
    if workers is not None:
        return [rows[here] for here in workers.spans(len(rows))]
    return [rows[start : start + CELLS_PER_PART] for start in range(0, len(rows), CELLS_PER_PART)]


def over_parts(function: Callable[..., T], reader: Reader, *shared: Any) -> Iterator[T]:
    """What ``function(part, *shared)`` gives for consecutive parts of the cells, in their order.

    Without workers there is a single part, ``reader``.
    """
    if reader.workers is None:
        yield function(reader, *shared)
        return
    parts = ((reader.apart(rows), reader.kept_by_worker(rows)) for rows in reader.workers.spans(reader.n_obs))
    yield from reader.workers.map(partial(_in_worker, function), parts, *shared)


def _in_worker(function: Callable[..., T], part: tuple[CountsReader, Any], *shared: Any) -> T:
    reader, kept = part
    if kept is not None:
        reader.fill(kept)
    return function(reader, *shared)
