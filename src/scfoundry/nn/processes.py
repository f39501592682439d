"""Several processes that train one model together."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["alone", "share", "together"]

_alone = False


def together() -> bool:
    """Whether what is computed now is a part of what several processes compute."""
    return distributed.is_available() and distributed.is_initialized() and not _alone


@contextmanager
def alone() -> Iterator[None]:
    """Compute for this process only: a group outlives a training, and the next one may be of one process."""
    global _alone  # backward passes may run in threads of their own
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@torch.no_grad()
def share(*values: Tensor) -> None:
    """Give all processes the values of the first, in place."""
    if together():
        for value in values:
            distributed.broadcast(value, 0)
