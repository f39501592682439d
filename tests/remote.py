"""Work for processes that cannot import a test."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry.data.matrix.reader import Reader


def square(number: int, victim: int, died: str) -> int:
    """The square of a number; the first time, one process is killed over it."""
    if os.getpid() == victim and not Path(died).exists():
        Path(died).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def inverse(number: int) -> float:
    """The inverse of a number."""
    return 1 / number


def total_counts(reader: Reader) -> NDArray[np.float32]:
    """Counts of every cell."""
    return np.asarray(reader.read(np.arange(reader.n_obs)).sum(1)).ravel()
