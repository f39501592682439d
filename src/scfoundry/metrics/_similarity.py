"""Pearson correlation and cosine along an axis; NaN where they are not defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cosine", "pearson"]


def cosine(a: NDArray[np.float64], b: NDArray[np.float64], *, axis: int = 0) -> NDArray[np.float64]:
    """Cosine of the angle between `a` and `b`; NaN where one of them is all zeros."""
    norm = np.sqrt((a * a).sum(axis)) * np.sqrt((b * b).sum(axis))
    return np.divide((a * b).sum(axis), norm, out=np.full_like(norm, np.nan), where=norm > 0)


def pearson(a: NDArray[np.float64], b: NDArray[np.float64], *, axis: int = 0) -> NDArray[np.float64]:
    """Pearson correlation of `a` and `b`; NaN where one of them is constant."""
    # Centring a constant leaves rounding noise, whose cosine would look like a correlation.
    constant = (np.ptp(a, axis=axis) == 0) | (np.ptp(b, axis=axis) == 0)
    centred = cosine(a - a.mean(axis, keepdims=True), b - b.mean(axis, keepdims=True), axis=axis)
    return np.where(constant, np.nan, centred)
