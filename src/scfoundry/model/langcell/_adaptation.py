"""Labels that a model gives cell by cell, made consistent with how the cells of the data set lie to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg
from scipy.special import log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["adapted_log_odds"]

N_STEPS = 8
PRIOR_WEIGHT = 0.4
LIKELIHOOD_WEIGHT = 0.5
# Share of a spherical covariance: components of a small data set are noisy.
SHRINKAGE = 0.2
# Cells that a label needs before its place counts as much as what the model says of it.
PRIOR_CELLS = 5.0


def adapted_log_odds(log_prior: NDArray[np.floating], components: NDArray[np.floating]) -> NDArray[np.floating]:
    r"""Combine what a model says of each cell with where the cell lies among all cells.

    Every label is a Gaussian in the space of the data set's principal components, all with one covariance. Means and
    covariance come from the cells, weighted by :math:`q_{ij} \propto p_{ij}^2`, times the confidence
    :math:`\max_j p_{ij}`; then :math:`\log p_{ij} = a \log p^0_{ij} + b\, g_j \log N(x_i; \mu_j, \Sigma) + \ldots`, and
    again. A label that few cells carry keeps to the model: its likelihood is drawn towards the cell's mean over labels
    by :math:`g_j = n_j / (n_j + 5)`.

    No label of any cell is needed: this is a step of semi-supervised linear discriminant analysis with the model as the
    only teacher. It moves cells along with their neighbours, most where the model is in doubt.

    Parameters
    ----------
    log_prior
        Log probability of P labels by the model, (n, P).
    components
        Principal components of the same cells, (n, k).

    Returns
    -------
    Log probabilities, (n, P), rows normalised.
    """
    log_prior = log_softmax(np.asarray(log_prior, dtype=np.float64), axis=1)
    log_posterior = log_prior
    for _ in range(N_STEPS):
        likelihood, n_cells = _likelihood(np.exp(log_posterior), components)
        expected = (np.exp(log_prior) * likelihood).sum(1, keepdims=True)
        trust = n_cells / (n_cells + PRIOR_CELLS)
        likelihood = trust * likelihood + (1 - trust) * expected
        log_posterior = log_softmax(PRIOR_WEIGHT * log_prior + LIKELIHOOD_WEIGHT * likelihood, axis=1)
    return log_posterior


def _likelihood(
    p: NDArray[np.floating], components: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Gaussian log likelihood of every label up to a constant, (n, P), and the cells behind each label, (P,)."""
    weight = p**2
    weight *= p.max(1, keepdims=True) / weight.sum(1, keepdims=True)
    n_cells = weight.sum(0)
    means = (weight.T @ components) / np.maximum(n_cells, 1e-9)[:, None]
    scatter = (components * weight.sum(1, keepdims=True)).T @ components - (means * n_cells[:, None]).T @ means
    covariance = scatter / max(n_cells.sum(), 1e-9)
    width = len(covariance)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.eye(width) * np.trace(covariance) / width
    root = linalg.cholesky(covariance + 1e-9 * np.eye(width), lower=True)
    x, mu = (linalg.solve_triangular(root, points.T, lower=True).T for points in (components, means))
    distance = (x**2).sum(1)[:, None] - 2 * x @ mu.T + (mu**2).sum(1)
    return -0.5 * distance, n_cells
