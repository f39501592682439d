"""Strata of sparsity: how genes are grouped by the share of cells that lack them (Wen et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ZERO_RATES", "stratum_of"]

ZERO_RATES = (0.0, 0.75, 0.9, 0.95, 1.0)


def stratum_of(values: NDArray[np.floating], edges: Sequence[float] = ZERO_RATES) -> NDArray[np.int64]:
    """Number k of the stratum with ``edges[k] < value <= edges[k + 1]``; -1 for a value in none."""
    number = np.searchsorted(edges, values, side="left") - 1
    return np.where(number < len(edges) - 1, number, -1)
