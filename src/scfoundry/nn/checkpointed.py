"""Layers whose activations are computed again in the backward pass instead of kept (Chen et al. 2016)."""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CheckpointedLayer"]

# Of glibc, which keeps what tensors leave in pieces that soon are too small: a quarter of the memory of a training.
MALLOC_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


class CheckpointedLayer(nn.Module):
    """A layer of which, if ``gradient_checkpointing``, the input alone is kept for the gradient.

    Gradients are the same, dropout included; a training step takes about a third longer.
    """

    gradient_checkpointing = False

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """What the layer makes of its inputs."""
        return self.checkpointed(super().__call__, *inputs, **named)

    def checkpointed(self, part: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        """What a part of the layer makes of its inputs, for callers that do not go through all of it."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            before = memory_given_back if next(self.parameters()).device.type == "cpu" else nullcontext
            return checkpoint(part, *inputs, use_reentrant=False, context_fn=lambda: (before(), before()), **named)
        return part(*inputs, **named)


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Compute after the system has got back what others have left."""
    if MALLOC_TRIM is not None:
        MALLOC_TRIM(0)
    yield
