r"""Rows of a table with missing values under a normal distribution: what the measured values say of the others.

For a row with mean :math:`m` and values measured at :math:`O`, with :math:`w = \Sigma_{OO}^{-1} (y_O - m_O)`, the
others are expected at :math:`m + \Sigma_{\cdot O} w`, and a measured value, had it been left out, at :math:`y_i - w_i /
(\Sigma_{OO}^{-1})_{ii}` (Rasmussen and Williams 2006, 5.12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["covariance", "expected"]

# How far covariances are shrunk to 0; the one that predicts left-out values best is taken.
SHRINKAGE = (0.1, 0.3, 0.6)
N_ROWS_TRIED = 64
ROWS_PER_BLOCK = 64


def covariance(residuals: Array, shrinkage: Sequence[float] = SHRINKAGE) -> Array:
    """Covariance of D columns of residuals with mean 0, (n, D) with NaN, shrunk as far as predicts them best."""
    measured = np.isfinite(residuals)
    filled = np.where(measured, residuals, 0.0)
    together = measured.astype(np.float64).T @ measured
    found = filled.T @ filled / np.maximum(together, 1)
    # A covariance known from few rows is worth less.
    found *= together / (together + 1)
    variances = np.diag(found).copy()
    variances[variances <= 0] = variances[variances > 0].mean() if (variances > 0).any() else 1.0
    np.fill_diagonal(found, variances)
    if len(shrinkage) == 1:
        return _shrunk(found, variances, shrinkage[0])
    rows = np.linspace(0, len(residuals) - 1, min(N_ROWS_TRIED, len(residuals))).astype(int)
    tried, lowest = None, np.inf
    for share in shrinkage:
        candidate = _shrunk(found, variances, share)
        errors = (expected(residuals[rows], np.zeros_like(residuals[rows]), candidate) - residuals[rows])[
            measured[rows]
        ]
        if (squares := float(np.square(errors).sum())) < lowest:
            tried, lowest = candidate, squares
    return np.diag(variances) if tried is None else tried


def _shrunk(found: Array, variances: Array, share: float) -> Array:
    values, vectors = np.linalg.eigh((1 - share) * found + share * np.diag(variances))
    # Of pairwise sums the smallest eigenvalues may be negative.
    return (vectors * values.clip(min=1e-3 * variances.mean())) @ vectors.T


def expected(values: Array, mean: Array, cov: Array) -> Array:
    """Expectation of every entry of (n, D) given the other measured values of its row; NaN in ``values`` is missing."""
    found = np.empty_like(mean)
    for rows, measured, inverse in _inverses(np.isfinite(values), cov):
        off = np.where(measured, values[rows] - mean[rows], 0.0)
        weights = np.einsum("nij,nj->ni", inverse, off)
        left_out = off - weights / np.diagonal(inverse, axis1=1, axis2=2)
        found[rows] = mean[rows] + np.where(measured, left_out, weights @ cov)
    return found


def _inverses(measured: NDArray[np.bool_], cov: Array) -> Iterator[tuple[slice, NDArray[np.bool_], Array]]:
    """Inverse of the covariance of the measured entries of rows, block by block, (b, D, D); 1 for those missing."""
    identity = np.eye(len(cov))
    for start in range(0, len(measured), ROWS_PER_BLOCK):
        rows = slice(start, min(start + ROWS_PER_BLOCK, len(measured)))
        here = measured[rows]
        both = here[:, :, None] & here[:, None, :]
        inverse = np.linalg.inv(np.where(both, cov, identity))
        yield rows, here, np.where(here[:, :, None] & here[:, None, :] | identity.astype(bool), inverse, 0.0)
