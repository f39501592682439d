"""How likely a count is lost in simulated dropout (Wen et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MIN_GENES", "SCALE", "log_dropout_weights"]

# Published: the count at which the chance has fallen to 1/e, and the least expressed genes of a cell that loses some.
SCALE = 20.0
MIN_GENES = 6


def log_dropout_weights(counts: NDArray[np.floating], scale: float) -> NDArray[np.floating]:
    r"""Logarithm of the weights :math:`\exp(-x / \text{scale})` with which counts are drawn to be lost."""
    return -counts / scale
