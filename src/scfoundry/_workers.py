"""Work on parts of a data set by the processes of a dask cluster."""

from __future__ import annotations

import warnings
from collections import deque
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from scfoundry._settings import without_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

__all__ = ["Workers"]

T = TypeVar("T")

# Cells of one piece of work: enough to be worth sending, few enough to lose when a worker dies.
MOST_CELLS, FEWEST_CELLS = 16_384, 1_024
# Pieces per thread: the last ones should end at about the same time; and those that wait for one.
PIECES, WAITING = 4, 2


class Workers:
    """Threads of a `dask.distributed` cluster, each of which computes on one core.

    ``client``: that of the cluster. Work is the function, its arguments and the place of the cells on disk; results
    come back in the order of the work. A worker that dies is replaced by another, which begins its piece anew.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._sent: dict[int, tuple[Any, Any]] = {}

    @classmethod
    def active(cls, *, caller: str) -> Self:
        """Those of the client that was made last; a ValueError where there is none, an ImportError without dask."""
        try:
            from distributed import default_client
        except ImportError as error:
            msg = f'{caller}(distribute=True) needs dask.distributed: pip install "scfoundry-models[scale]".'
            raise ImportError(msg) from error
        try:
            return cls(default_client())
        except ValueError as error:
            msg = (
                f"{caller}(distribute=True) sends work to the active dask client, and there is none. Start one: from "
                "distributed import Client; client = Client(n_workers=4, threads_per_worker=1)."
            )
            raise ValueError(msg) from error

    @property
    def n_threads(self) -> int:
        """Pieces of work that are done at a time."""
        return max(1, sum(self.client.nthreads().values()))

    def spans(self, n_cells: int) -> list[NDArray[np.int64]]:
        """Rows of consecutive cells that make a piece of work each."""
        # As many for each thread, of sizes by which blocks of cells begin where those of one process do.
        n_pieces = max(PIECES, -(-n_cells // (MOST_CELLS * self.n_threads))) * self.n_threads
        size = max(1, -(-n_cells // (n_pieces * FEWEST_CELLS))) * FEWEST_CELLS
        return [np.arange(start, min(start + size, n_cells)) for start in range(0, n_cells, size)]

    def map(self, function: Callable[..., T], items: Iterable[Any], *shared: Any) -> Iterator[T]:
        """What ``function(item, *shared)`` gives for each item, in their order.

        Items are sent when it is their turn, and ``shared`` once to every worker. Whatever ends this early, an
        interruption too, takes back what has not been done.
        """
        shared = tuple(map(self._once, shared))
        waiting: deque[Any] = deque()
        items = iter(items)
        try:
            for item in islice(items, WAITING * self.n_threads):
                waiting.append(self._submit(_on_one_core, function, item, *shared))
            while waiting:
                found = waiting[0].result()
                waiting.popleft()
                for item in islice(items, 1):
                    waiting.append(self._submit(_on_one_core, function, item, *shared))
                yield found
        finally:
            if waiting:
                self.client.cancel(list(waiting))

    def hold(self, function: Callable[..., Any], items: Iterable[Any], *shared: Any, evenly: bool = False) -> list[Any]:
        """The same, but what is found stays with the workers, to be the items of further work.

        ``evenly``: in equal shares, where the worker that is ready first would have the most to do ever after.
        """
        shared = tuple(map(self._once, shared))
        threads = [address for address, n in self.client.nthreads().items() for _ in range(n)] if evenly else []
        where = [{"workers": [address], "allow_other_workers": True} for address in threads] or [{}]
        pairs = zip(items, cycle(where), strict=False)
        return [self._submit(_on_one_core, function, item, *shared, **there) for item, there in pairs]

    def _once(self, argument: Any) -> Any:
        """The same for much work, such as a model: sent to a worker no second time."""
        if id(argument) not in self._sent:
            # As the result of work, which is done again where the worker that had it is gone.
            self._sent[id(argument)] = argument, self._submit(_itself, argument)
        return self._sent[id(argument)][1]

    def _submit(self, *work: Any, **where: Any) -> Any:
        with warnings.catch_warnings():
            # Models, and cells that lie in memory, have to be sent.
            warnings.filterwarnings("ignore", "Sending large graph")
            return self.client.submit(*work, pure=False, **where)


def _itself(argument: Any) -> Any:
    return argument


def _on_one_core(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a worker: libraries beside it take no threads, and dask arrays are read here."""
    import dask
    import torch
    from threadpoolctl import threadpool_limits

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), dask.config.set(scheduler="synchronous"), without_progress():
            return function(*arguments)
    finally:
        torch.set_num_threads(n_threads)
