"""What a model says of every cell by itself, part by part by workers."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from scfoundry._device import Compute
from scfoundry._settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells

    Rows = NDArray[np.int64]

__all__ = ["by_cell", "computed", "joined"]

F = TypeVar("F", bound="Callable[..., Any]")


def by_cell(**of_all: str) -> Callable[[F], F]:
    """Let a method ``(self, cells, ..., compute)`` work on parts of the cells, if these have workers.

    What it says of a cell must not depend on the others but through arguments that ``of_all`` names, each with the
    method ``(self, cells, compute)`` that finds it in all cells.
    """

    def decorated(method: F) -> F:
        @wraps(method)
        def run(self: Any, cells: Cells, *arguments: Any, **given: Any) -> Any:
            if cells.workers is None:
                return method(self, cells, *arguments, **given)
            given |= {name: getattr(self, of_all[name])(cells, arguments[-1]) for name in of_all}
            return computed(self, method, cells, cells.workers.spans(cells.n_obs), *arguments, **given)

        return run  # type: ignore[return-value]

    return decorated


def computed(
    model: Any, method: Callable[..., Any], cells: Cells, parts: Sequence[Rows], *arguments: Any, **given: Any
) -> Any:
    """What a method of a model says of cells, computed by workers for the rows of each part."""
    workers: Any = cells.workers
    found = []
    with tqdm(
        desc=getattr(model, "name", method.__name__), total=cells.n_obs, unit="cell", disable=not settings.show_progress
    ) as bar:
        work = workers.map(_said, (cells.apart(rows) for rows in parts), model, method.__name__, arguments, given)
        for rows, said in zip(parts, work, strict=True):
            found.append((rows, said))
            bar.update(len(rows))
    return joined(found, cells.n_obs)


def joined(parts: Iterable[tuple[Rows, Any]], n_cells: int) -> Any:
    """Arrays over cells put together, those in a dataclass too; what is not of cells is the same in all parts."""
    parts = list(parts)
    _, first = parts[0]
    if is_dataclass(first) and not isinstance(first, type):
        arrays = [field.name for field in fields(first) if isinstance(getattr(first, field.name), np.ndarray)]
        return replace(
            first, **{name: joined([(rows, getattr(said, name)) for rows, said in parts], n_cells) for name in arrays}
        )
    whole = np.empty((n_cells, *first.shape[1:]), dtype=first.dtype)
    for rows, said in parts:
        whole[rows] = said
    return whole


def _said(cells: Cells, model: Any, method: str, arguments: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """In a worker."""
    arguments = tuple(map(_of_worker, arguments))
    return getattr(model, method)(cells, *arguments, **{name: _of_worker(value) for name, value in given.items()})


def _of_worker(argument: Any) -> Any:
    return argument.elsewhere() if isinstance(argument, Compute) else argument
