"""Pearson correlation, plain, beyond library size, and what noise leaves of it; cosine. NaN where not defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["attainable", "cosine", "partial_pearson", "pearson"]

# Log expression of a constant share of the library is a curve over log library size; this follows any of them.
POLYNOMIAL_DEGREE = 5
# What is left of such a curve beside the polynomial is no signal.
LEAST_LEFT = 0.02


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


def partial_pearson(
    a: NDArray[np.float64], b: NDArray[np.float64], library: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pearson correlation of what library size does not explain, gene by gene, (n, g) to (g,).

    From both sides a polynomial of the fifth degree in log library size is removed by least squares. Where nothing but
    the library is left of ``b``, the correlation is 0; NaN where ``a`` or ``b`` is constant.
    """
    log = np.log1p(np.asarray(library, dtype=np.float64))
    spread = log.std()
    scaled = (log - log.mean()) / spread if spread > 0 else np.zeros_like(log)
    powers = np.vander(scaled, POLYNOMIAL_DEGREE + 1)
    basis = np.linalg.svd(powers, full_matrices=False)
    explained = basis.U[:, basis.S[0] * 1e-10 < basis.S]
    rest_a, rest_b = (x - explained @ (explained.T @ x) for x in (a, b))
    rest = pearson(rest_a, rest_b)
    only_library = rest_b.std(0) < LEAST_LEFT * b.std(0)
    constant = (np.ptp(a, axis=0) == 0) | (np.ptp(b, axis=0) == 0)
    return np.where(constant, np.nan, np.where(only_library, 0.0, rest))


def attainable(halves: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Correlation with noisy truth that a prediction without error has, by that of disjoint halves of the truth.

    Halves that correlate with :math:`r` are of a whole of reliability :math:`2r / (1 + r)` (Spearman, Brown); what is
    measured without error correlates with it with the root of that. 0 where halves do not agree.
    """
    agreement = np.maximum(halves, 0.0)
    return np.sqrt(2 * agreement / (1 + agreement))
