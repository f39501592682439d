"""Labels that a model gives cell by cell, made consistent with how the cells of the data set lie to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg
from scipy.special import log_softmax, softmax

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["adapted", "adapted_fit", "adapted_log_odds"]

N_STEPS = 8
PRIOR_WEIGHT = 0.4
LIKELIHOOD_WEIGHT = 0.5
# Share of a spherical covariance: components of a small data set are noisy.
SHRINKAGE = 0.2
# Cells that a label needs before its place counts as much as its prior by the model.
PRIOR_CELLS = 5.0
# Even a label without cells may be there.
HALF_A_CELL = 0.5
CELLS_PER_BLOCK = 4096
# What a cell keeps of its own: cells that lie together can be wrong together, and agreement would look like certainty.
OWN_SHARE = 0.3
TINY = 1e-12
# Cells that agree on whether any label fits: few enough that a rare type has clusters of its own.
CELLS_PER_CLUSTER, MAX_CLUSTERS = 25, 2_000
# Fits below are alike.
NO_FIT = 1e-4


def adapted(
    probabilities: NDArray[np.float32], components: NDArray[np.floating], temperature: float
) -> NDArray[np.float32]:
    """Bring cells that lie together to agree on their labels, whose probabilities (n, P) were found cell by cell.

    Components (n, k) are NaN for cells without a place among the others; the temperature divides log probabilities
    after `adapted_log_odds`. The very array that was given comes back where fewer than two cells have a place, or the
    cells are all alike (k = 0): there is nothing to agree by.
    """
    if components.shape[1] == 0 or np.count_nonzero(_placed(components)) < 2:
        return probabilities
    log_odds = adapted_log_odds(np.log(probabilities.clip(TINY)), components)
    log_odds /= temperature
    return ((1 - OWN_SHARE) * softmax(log_odds, axis=1) + OWN_SHARE * probabilities).astype(np.float32)


def adapted_fit(
    fit: NDArray[np.float32], components: NDArray[np.floating], order: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Bring cells that lie together to agree on how well their best label fits, (n,), from 0 to 1.

    What a cell does not keep of its own is the geometric mean of a small cluster of components (n, k): cells of a type
    that is not offered lie together, those that are hard to read lie among others. ``order``: rows in an order that is
    not that of the data. Cells without a place among the others, and all of fewer than two clusters, stay as they are.
    """
    placed = order[_placed(components[order])]
    n_clusters = min(len(placed) // CELLS_PER_CLUSTER, MAX_CLUSTERS)
    if components.shape[1] == 0 or n_clusters < 2:
        return fit
    from sklearn.cluster import MiniBatchKMeans  # takes long to import

    clusters = MiniBatchKMeans(n_clusters, random_state=0)
    cluster = clusters.fit_predict(components[placed])
    log_fit = np.log(fit[placed] + NO_FIT)
    of_cluster = np.bincount(cluster, log_fit, n_clusters) / np.bincount(cluster, minlength=n_clusters).clip(1)
    agreed = fit.copy()
    agreed[placed] = np.exp((1 - OWN_SHARE) * of_cluster[cluster] + OWN_SHARE * log_fit) - NO_FIT
    return agreed.clip(0, 1)


def adapted_log_odds(log_prior: NDArray[np.floating], components: NDArray[np.floating]) -> NDArray[np.float32]:
    r"""Combine the log probabilities of P labels by a model, (n, P), with where cells lie among all cells, (n, k).

    Every label is a Gaussian in the space of the data set's principal components, all with one covariance. Means and
    covariance come from the cells, weighted by :math:`q_{ij} \propto p_{ij}^2`, times the confidence
    :math:`\max_j p_{ij}`; then :math:`\log p_{ij} = a \log p^0_{ij} + b\, g_j \log N(x_i; \mu_j, \Sigma) + \ldots`, and
    again. A label that few cells carry keeps to the model: its likelihood is drawn towards the cell's mean over labels
    by :math:`g_j = n_j / (n_j + 5)`. A label offered in vain costs little: that label j is
    there at all enters by :math:`\log n_j / (n_j + \sqrt n)`.

    No label of any cell is needed: this is a step of semi-supervised linear discriminant analysis that starts from the
    model alone. It moves cells along with their neighbours, most where the model is in doubt. Cells without a place
    among the others (NaN components) keep the order of the model's labels and have no influence. Memory beyond the
    result does not grow with the number of cells: sums are gathered block by block, in double precision.
    """
    clouds: _Clouds | None = None
    for _ in range(N_STEPS):
        clouds = _clouds(log_prior, components, clouds)
    result = np.empty(log_prior.shape, dtype=np.float32)
    for rows in _blocks(len(result)):
        result[rows] = _log_posterior(log_prior[rows], components[rows], clouds)
    return result


def _blocks(n_cells: int) -> Iterator[slice]:
    return (slice(start, start + CELLS_PER_BLOCK) for start in range(0, n_cells, CELLS_PER_BLOCK))


@dataclass(frozen=True)
class _Clouds:
    """Gaussians of P labels with one covariance."""

    n_cells: NDArray[np.float64]  # behind each label, (P,)
    log_present: NDArray[np.float64]  # how sure it is that cells of each label are there, (P,)
    means: NDArray[np.float64]  # whitened, (P, k)
    root: NDArray[np.float64]  # Cholesky root of the covariance, (k, k)

    def log_likelihood(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Log likelihood of every label up to a constant, (n, P)."""
        x = linalg.solve_triangular(self.root, x.T, lower=True).T
        return x @ self.means.T - 0.5 * (x**2).sum(1)[:, None] - 0.5 * (self.means**2).sum(1)


def _clouds(log_prior: NDArray[np.floating], components: NDArray[np.floating], clouds: _Clouds | None) -> _Clouds:
    """Clouds of the cells with the probabilities by those before; without any, by the prior."""
    n_labels, width = log_prior.shape[1], components.shape[1]
    weights, points, squares = np.zeros(n_labels), np.zeros((n_labels, width)), np.zeros((width, width))
    for rows in _blocks(len(log_prior)):
        placed = _placed(components[rows])
        p = np.exp(_log_posterior(log_prior[rows], components[rows], clouds))[placed]
        x, weight = components[rows][placed], p**2
        weight *= p.max(1, keepdims=True) / weight.sum(1, keepdims=True)
        weights += weight.sum(0)
        points += weight.T @ x
        squares += (x * weight.sum(1, keepdims=True)).T @ x
    means = points / np.maximum(weights, 1e-9)[:, None]
    scatter = squares - (means * weights[:, None]).T @ means
    covariance = scatter / max(weights.sum(), 1e-9)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.eye(width) * np.trace(covariance) / width
    root = linalg.cholesky(covariance + 1e-9 * np.eye(width), lower=True)
    present = (weights + HALF_A_CELL) / (weights + HALF_A_CELL + np.sqrt(weights.sum()))
    return _Clouds(weights, np.log(present), linalg.solve_triangular(root, means.T, lower=True).T, root)


def _log_posterior(
    log_prior: NDArray[np.floating], components: NDArray[np.floating], clouds: _Clouds | None
) -> NDArray[np.floating]:
    """Log probability of every label, (n, P); without clouds the prior."""
    log_prior = log_softmax(log_prior.astype(np.float64), axis=1)
    if clouds is None:
        return log_prior
    placed = _placed(components)[:, None]
    likelihood = np.where(placed, clouds.log_likelihood(np.where(placed, components, 0)), 0)
    expected = (np.exp(log_prior) * likelihood).sum(1, keepdims=True)
    trust = clouds.n_cells / (clouds.n_cells + PRIOR_CELLS)
    likelihood = trust * likelihood + (1 - trust) * expected
    return log_softmax(PRIOR_WEIGHT * log_prior + LIKELIHOOD_WEIGHT * likelihood + clouds.log_present, axis=1)


def _placed(components: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Cells that have a place among the others, (n,)."""
    return np.isfinite(components).all(1)
