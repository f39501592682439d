"""How Lightning is to behave: quiet, and without ending the process of who interrupts it."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scfoundry._settings import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["interruptible", "quiet_lightning"]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning from reporting devices and advertising, unless the package is to tell everything."""
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    if not logger.isEnabledFor(logging.DEBUG):
        lightning.setLevel(logging.WARNING)
    try:
        yield
    finally:
        lightning.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Hand an interruption on as one.

    Lightning would end the process, a notebook's kernel too, and leave the process deaf to the next interruption.
    """
    # Only the main thread may say what a signal does.
    handler = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from ended
        raise
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
