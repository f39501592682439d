"""What a model says of cells, part by part: by workers, or where not all of it is kept in memory."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from scfoundry._device import Compute
from scfoundry._settings import settings, without_progress
from scfoundry.data.matrix.parts import spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells

    Rows = NDArray[np.int64]

__all__ = ["by_cell", "computed", "embedded", "joined"]

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
            parts = cells.workers.spans(cells.n_obs)
            return joined(computed(self, method.__name__, cells, parts, *arguments, **given), cells.n_obs)

        run.of_all = of_all  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorated


def embedded(
    model: Any, cells: Cells, compute: Compute, wanted: NDArray[np.bool_]
) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    """Embeddings of the cells that are ``wanted``, (n_obs,), some after others: rows, and values (n, n_latent).

    Cells that a model reads together come together, with others that are not wanted where these are among them. So do
    all cells of a model that has no way to give some of them.
    """
    own, of_all = getattr(model, "embed_parts", None), getattr(type(model).embed, "of_all", None)
    if own is not None:
        yield from own(cells, compute, wanted)
    elif of_all is None:
        yield np.arange(cells.n_obs), model.embed(cells, compute)
    else:
        given = {name: getattr(model, of_all[name])(cells, compute) for name in of_all}
        yield from computed(model, "embed", cells, spans(np.flatnonzero(wanted), cells.workers), compute, **given)


def computed(
    model: Any, method: str, cells: Cells, parts: Sequence[Rows], *arguments: Any, **given: Any
) -> Iterator[tuple[Rows, Any]]:
    """Rows of each part, and what a method of a model finds: by workers, if there are any."""
    work: Iterator[Any]
    if cells.workers is None:
        work = (_here(cells.take(rows), model, method, arguments, given) for rows in parts)
    else:
        sent = ((cells.apart(rows), cells.reader.kept_by_worker(rows)) for rows in parts)
        work = cells.workers.map(_in_worker, sent, model, method, arguments, given)
    n_cells = sum(map(len, parts))
    with tqdm(
        desc=getattr(model, "name", method), total=n_cells, unit="cell", disable=not settings.show_progress
    ) as bar:
        for rows, found in zip(parts, work, strict=True):
            yield rows, found
            bar.update(len(rows))


def joined(parts: Iterable[tuple[Rows, Any]], n_cells: int) -> Any:
    """Arrays over cells put together, those in a dataclass too; what is not of cells is the same in all parts."""
    parts = list(parts)
    _, first = parts[0]
    if is_dataclass(first) and not isinstance(first, type):
        arrays = [field.name for field in fields(first) if isinstance(getattr(first, field.name), np.ndarray)]
        return replace(
            first, **{name: joined([(rows, getattr(found, name)) for rows, found in parts], n_cells) for name in arrays}
        )
    whole = np.empty((n_cells, *first.shape[1:]), dtype=first.dtype)
    for rows, found in parts:
        whole[rows] = found
    return whole


def _here(cells: Cells, model: Any, method: str, arguments: tuple[Any, ...], given: dict[str, Any]) -> Any:
    with without_progress():
        return getattr(model, method)(cells, *arguments, **given)


def _in_worker(
    part: tuple[Any, Any], model: Any, method: str, arguments: tuple[Any, ...], given: dict[str, Any]
) -> Any:
    """In a worker."""
    cells, kept = part
    if kept is not None:
        cells.reader.fill(kept)
    arguments = tuple(map(_of_worker, arguments))
    return getattr(model, method)(cells, *arguments, **{name: _of_worker(value) for name, value in given.items()})


def _of_worker(argument: Any) -> Any:
    return argument.elsewhere() if isinstance(argument, Compute) else argument
