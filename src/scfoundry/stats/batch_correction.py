"""Batch effects taken out of an embedding, cluster by cluster (Korsunsky et al. 2019), for new cells, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.special import softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["BatchCorrection"]

# Published: width of soft clusters, weight of the diversity of batches in them, ridge on offsets, most clusters.
SIGMA, THETA, RIDGE = 0.1, 2.0, 1.0
CELLS_PER_CLUSTER, MAX_CLUSTERS = 30, 100
N_ROUNDS, N_UPDATES = 5, 10
N_INITIAL_UPDATES = 10
CELLS_PER_BLOCK = 4096
TINY = 1e-12


@dataclass(frozen=True)
class BatchCorrection:
    r"""Offsets of every batch in every soft cluster, found in some rounds.

    In a round, cells are soft-clustered by the cosine of where they lie after the round before,
    :math:`R_{ik} \propto \exp(2 (\cos(\hat z_i, y_k) - 1) / \sigma)\, ((E_{bk} + 1) / (O_{bk} + 1))^\theta`: clusters
    with more cells of batch b than expected draw fewer of them. Within each cluster a ridge regression finds the
    offsets :math:`w_{bk}` of batches from what they have in common, and :math:`\hat z_i = z_i - \sum_k R_{ik} w_{bk}`.
    Every round is a function of a cell and its batch alone, so that a new cell goes where it would have gone.
    """

    centroids: NDArray[np.float64]  # unit vectors, (rounds, K, d)
    preference: NDArray[np.float64]  # log odds of a batch for a cluster, (rounds, B, K)
    offsets: NDArray[np.float64]  # (rounds, B, K, d)

    @classmethod
    def fit(cls, points: NDArray[np.float64], batches: NDArray[np.int64]) -> Self:
        """Learn from cells (n, d) of batches numbered from 0, (n,), in an order that does not depend on the data's."""
        n_clusters = int(np.clip(round(len(points) / CELLS_PER_CLUSTER), 1, MAX_CLUSTERS))
        n_batches = int(batches.max()) + 1
        belongs = np.eye(n_batches)[batches]
        expected = belongs.mean(0)[:, None]
        y, preference = _initial_centroids(_unit(points), n_clusters), np.zeros((n_batches, n_clusters))
        rounds, corrected = [], points
        for _ in range(N_ROUNDS):
            directions = _unit(corrected)
            for step in range(N_UPDATES):
                members = _members(directions, y, preference[batches])
                y = _unit(members.T @ directions)
                wanted = THETA * np.log((expected * members.sum(0) + 1) / (belongs.T @ members + 1))
                # All cells move at once: by whole steps, batches would change places from update to update.
                preference = preference + (wanted - preference) / (step + 2)
            members = _members(directions, y, preference[batches])
            offsets = _offsets(points, members, batches, n_batches)
            rounds.append((y, preference, offsets))
            corrected = points - _moved(members, offsets, batches)
        return cls(*(np.stack(values) for values in zip(*rounds, strict=True)))

    def apply(self, points: NDArray[np.float64], batches: NDArray[np.int64]) -> NDArray[np.float64]:
        """Points (n, d) of cells of known batches (n,), corrected."""
        result = np.empty(points.shape)
        for start in range(0, len(points), CELLS_PER_BLOCK):
            rows = slice(start, start + CELLS_PER_BLOCK)
            corrected = points[rows]
            for y, preference, offsets in zip(self.centroids, self.preference, self.offsets, strict=True):
                members = _members(_unit(corrected), y, preference[batches[rows]])
                corrected = points[rows] - _moved(members, offsets, batches[rows])
            result[rows] = corrected
        return result

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` makes the same correction of."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """Correction that was stored."""
        return cls(**arrays)


def _unit(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), TINY)


def _members(
    directions: NDArray[np.float64], centroids: NDArray[np.float64], preference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of every cluster in every cell, (n, K)."""
    return softmax(2 * (directions @ centroids.T - 1) / SIGMA + preference, axis=1)


def _offsets(
    points: NDArray[np.float64], members: NDArray[np.float64], batches: NDArray[np.int64], n_batches: int
) -> NDArray[np.float64]:
    r"""Offsets of batches from what they have in common in a cluster, (B, K, d).

    They minimise :math:`\sum_i R_{ik} |z_i - a_k - w_{bk}|^2 + \lambda \sum_b |w_{bk}|^2`, one batch at a time given
    :math:`a_k`, which the sum of the conditions gives in closed form.
    """
    sums = np.stack([members[batches == b].T @ points[batches == b] for b in range(n_batches)])  # (B, K, d)
    weights = np.stack([members[batches == b].sum(0) for b in range(n_batches)])[..., None]  # (B, K, 1)
    share = RIDGE / (weights + RIDGE)
    common = (share * sums).sum(0) / np.maximum((share * weights).sum(0), TINY)
    return (sums - weights * common) / (weights + RIDGE)


def _moved(
    members: NDArray[np.float64], offsets: NDArray[np.float64], batches: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How far the offsets of its batch move every cell, (n, d)."""
    moved = np.empty((len(members), offsets.shape[-1]))
    for b in np.unique(batches):
        moved[batches == b] = members[batches == b] @ offsets[b]
    return moved


def _initial_centroids(directions: NDArray[np.float64], n_clusters: int) -> NDArray[np.float64]:
    """Spherical k-means from a start spread out by distance (Arthur and Vassilvitskii 2007), (K, d)."""
    rng, n = np.random.default_rng(0), len(directions)
    chosen = [int(rng.integers(n))]
    distance = np.square(directions - directions[chosen[0]]).sum(1)
    for _ in range(n_clusters - 1):
        drawn = int(np.searchsorted(np.cumsum(distance), rng.random() * distance.sum()))
        chosen.append(min(drawn, n - 1))
        distance = np.minimum(distance, np.square(directions - directions[chosen[-1]]).sum(1))
    centroids = directions[chosen]
    for _ in range(N_INITIAL_UPDATES):
        members = np.eye(n_clusters)[(directions @ centroids.T).argmax(1)]
        centroids = np.where(members.any(0)[:, None], _unit(members.T @ directions), centroids)
    return centroids
