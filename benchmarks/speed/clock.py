"""How long something takes on a machine that others use too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Clock"]


class Clock:
    """Best of several runs.

    Parameters
    ----------
    cpu_time
        Use one thread and count its processor time instead of the time on the wall. Ratios then hold on a busy machine.
    """

    def __init__(self, *, cpu_time: bool = False) -> None:
        if cpu_time:
            torch.set_num_threads(1)
        self._now = time.thread_time if cpu_time else time.perf_counter

    def once(self, work: Callable[..., object], *arguments: object) -> float:
        """Seconds of one run."""
        start = self._now()
        work(*arguments)
        return self._now() - start

    def best(self, work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
        """Least seconds of each piece of work; they take turns, so that all meet the same load."""
        for run in work.values():
            run()
        seconds = [{name: self.once(run) for name, run in work.items()} for _ in range(repeats)]
        return {name: min(turn[name] for turn in seconds) for name in work}
