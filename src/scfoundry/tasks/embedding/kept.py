"""Where rows of an embedding, and what was learned for it, are kept: in memory, or on disk from call to call."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from scfoundry.model._load import load_weights
from scfoundry.model._parts import embedded, joined
from scfoundry.tasks._fitted import Fitted, read_fitted, write_fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.unfinished import Unfinished

__all__ = ["InMemory", "OnDisk", "Rows"]

F = TypeVar("F", bound=Fitted)
# An array, (n, d) float32, or `RowsOnDisk`, some rows of which are read as those of one.
Rows: TypeAlias = Any


class InMemory:
    """Arrays that end with the call, if nobody holds them."""

    def or_nothing(self) -> AbstractContextManager[None]:
        """A context that a ValueError ends, and with it what is kept."""
        return nullcontext()

    def model(self, make: Callable[[], Any]) -> Any:
        """A model that was trained."""
        return make()

    def fitted(self, kind: type[F], model: Any, make: Callable[[], F]) -> F:
        """What was learned with a model."""
        return make()

    def latent(self, model: Any, cells: Cells, compute: Compute) -> Rows:
        """Latent of all cells, (n_obs, Z)."""
        return model.embed(cells, compute)

    def rows(
        self, n_rows: int, parts: Callable[[NDArray[np.int64]], Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]]
    ) -> Rows:
        """Rows, (n_rows, d), of ``parts(wanted)`` for row numbers."""
        return joined(parts(np.arange(n_rows)), n_rows)


class OnDisk(InMemory):
    """The same in a folder, where a call that was ended is gone on with."""

    def __init__(self, unfinished: Unfinished) -> None:
        self._unfinished = unfinished

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """See `InMemory`."""
        try:
            yield
        except ValueError:
            self._unfinished.remove()
            raise

    def model(self, make: Callable[[], Any]) -> Any:
        """See `InMemory`."""

        def save(model: Any, folder: Path) -> None:
            model.save_pretrained(folder, weights=model.provenance["weights"])

        return load_weights(self._unfinished.once("model", make, save))

    def fitted(self, kind: type[F], model: Any, make: Callable[[], F]) -> F:
        """See `InMemory`."""

        def save(fitted: F, folder: Path) -> None:
            arrays, values = fitted._stored()
            write_fitted(folder, kind.__name__, None, arrays=arrays, values=values)

        _, arrays, values = read_fitted(self._unfinished.once("fitted", make, save), kind.__name__)
        return kind._restored(model, arrays, values)

    def latent(self, model: Any, cells: Cells, compute: Compute) -> Rows:
        """See `InMemory`."""
        return self._unfinished.rows("latent", cells.n_obs, lambda wanted: embedded(model, cells, compute, wanted))

    def rows(
        self, n_rows: int, parts: Callable[[NDArray[np.int64]], Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]]
    ) -> Rows:
        """See `InMemory`."""
        return self._unfinished.rows("embedding", n_rows, lambda wanted: parts(np.flatnonzero(wanted)))
