"""Passes over the cells of a data set: in one go, or part by part by workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scfoundry.data.matrix.reader import Reader

__all__ = ["over_parts"]

T = TypeVar("T")


def over_parts(function: Callable[..., T], reader: Reader, *shared: Any) -> Iterator[T]:
    """What ``function(part, *shared)`` gives for consecutive parts of the cells, in their order.

    Without workers there is a single part, ``reader``.
    """
    if reader.workers is None:
        yield function(reader, *shared)
        return
    parts = (reader.apart(rows) for rows in reader.workers.spans(reader.n_obs))
    yield from reader.workers.map(function, parts, *shared)
