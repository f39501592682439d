r"""Rows of a table with missing values under a normal distribution: what the measured values say of the others.

For a row with mean :math:`m` and values measured at :math:`O`, with :math:`w = \Sigma_{OO}^{-1} (y_O - m_O)`, the
others are expected at :math:`m + \Sigma_{\cdot O} w`, and a measured value, had it been left out, at :math:`y_i - w_i /
(\Sigma_{OO}^{-1})_{ii}` (Rasmussen and Williams 2006, 5.12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["covariance", "expected", "left_out"]

# Factors, and how many columns and rows there are to each at least.
MOST_FACTORS, COLUMNS_PER_FACTOR, ROWS_PER_FACTOR = 24, 4, 8
N_FOLDS = 4
N_STEPS = 20
# Rows that the prior of a loading, to be 0, counts for; and least share of a variance that no factor explains.
PRIOR_ROWS, LEAST_UNIQUE = 5.0, 0.05
ROWS_PER_BLOCK = 64


def covariance(residuals: Array) -> Array:
    r"""Covariance :math:`W W^\top + \Psi` of D columns of residuals with mean 0, (n, D) with NaN.

    Factor analysis by expectation and maximisation (Rubin and Thayer 1982), with a normal prior of the loadings; a pair
    of columns need not be measured together.
    """
    measured = np.isfinite(residuals)
    filled, shown = np.where(measured, residuals, 0.0), measured.astype(np.float64)
    n_rows = shown.sum(0)
    q = max(1, min(MOST_FACTORS, shown.shape[1] // COLUMNS_PER_FACTOR, len(shown) // ROWS_PER_FACTOR))
    variances = np.square(filled).sum(0) / np.maximum(n_rows, 1)
    variances[variances <= 0] = variances[variances > 0].mean() if (variances > 0).any() else 1.0
    _, values, right = np.linalg.svd(filled, full_matrices=False)
    loadings, unique = right[:q].T * values[:q] / np.sqrt(len(filled)), variances / 2
    for _ in range(N_STEPS):
        precision = shown / unique
        products = (loadings[:, :, None] * loadings[:, None, :]).reshape(-1, q * q)
        # Of the factors of a row, (n, q, q).
        spread = np.linalg.inv(np.eye(q) + (precision @ products).reshape(-1, q, q))
        scores = np.einsum("nqr,nr->nq", spread, (precision * filled) @ loadings)
        moments = spread + scores[:, :, None] * scores[:, None, :]
        of_column = (shown.T @ moments.reshape(-1, q * q)).reshape(-1, q, q)
        together = filled.T @ scores
        loadings = np.linalg.solve(of_column + PRIOR_ROWS * np.eye(q), together[:, :, None])[:, :, 0]
        rest = np.square(filled).sum(0) - 2 * np.sum(loadings * together, axis=1)
        rest += np.einsum("dq,dqr,dr->d", loadings, of_column, loadings)
        unique = np.maximum((rest + variances) / (n_rows + 1), LEAST_UNIQUE * variances)
    return loadings @ loadings.T + np.diag(unique)


def left_out(values: Array, mean: Array) -> Array:
    """What `expected` gives, measured entries by a covariance that other rows have, (n, D)."""
    found = expected(values, mean, covariance(values - mean))
    measured = np.isfinite(values)
    for there, here in _folds(len(values)):
        guess = expected(values[here], mean[here], covariance(values[there] - mean[there]))
        found[here] = np.where(measured[here], guess, found[here])
    return found


def _folds(n: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to learn from, and rows left out, fold by fold."""
    fold = np.arange(n) % min(N_FOLDS, max(n, 1))
    for number in np.unique(fold):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


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
