"""The rate of this machine's matrix products, in the shapes of the model: the most that the model could reach."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.speed.clock import Clock

__all__ = ["Peak"]

CELLPLM_SHAPES = ((1024, 1024, 1024), (1024, 1024, 2048), (1024, 2048, 1024), (2048, 2048, 2048))


class Peak:
    """Highest rate of a matrix product seen so far, in FLOP/s; measure again beside everything compared with it.

    Parameters
    ----------
    dtype
        Type of the operands.
    shapes
        Rows, inner size and columns of every product.
    """

    def __init__(self, dtype: torch.dtype, shapes: Sequence[tuple[int, int, int]] = CELLPLM_SHAPES) -> None:
        self.flops_per_second = 0.0
        self._operands = [
            (torch.randn(n, k).to(dtype), torch.randn(k, m).to(dtype), torch.empty(n, m, dtype=dtype))
            for n, k, m in shapes
        ]

    def measure(self, clock: Clock, repeats: int = 3) -> None:
        """Run every shape several times."""
        for a, b, out in self._operands:
            for _ in range(repeats):
                seconds = clock.once(partial(torch.mm, out=out), a, b)
                self.flops_per_second = max(self.flops_per_second, 2 * a.numel() * b.shape[1] / seconds)
