"""Work for processes that cannot import a test."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def square(number: int, victim: int, died: str) -> int:
    """The square of a number; the first time, one process is killed over it."""
    if os.getpid() == victim and not Path(died).exists():
        Path(died).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def inverse(number: int) -> float:
    """The inverse of a number."""
    return 1 / number
