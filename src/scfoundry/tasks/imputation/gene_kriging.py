r"""Unmeasured genes from measured ones by the model's gene vectors: kriging over genes instead of places.

Pre-training placed genes that vary together side by side. With unit vectors :math:`e_j` of genes and Pearson residuals
:math:`r_{ij}` of the panel, an unmeasured gene t of spot i is expected to deviate by

.. math:: e_t^\top (E^\top E + \lambda I)^{-1} E^\top r_i,

the best linear prediction where residuals have the covariance :math:`e_j^\top e_{j'}` plus noise. No reference enters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry.tasks.imputation.composition import by_block

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.matrix.cells import Cells

__all__ = ["gene_directions", "unit_vectors"]

MAX_RESIDUAL = 5.0
# Keeps the residual of a gene that is hardly ever expected from exploding at its first count.
LEAST_VARIANCE = 0.01
# Noise in units of the mean eigenvalue of the vectors' covariance.
NOISE = 1.0
# Weight of the neighbourhood of a spot; the spot itself has the rest.
NEIGHBOR_SHARE = 0.5


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1, (G, D)."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def gene_directions(
    spots: Cells, vectors: NDArray[np.float32], panel: NDArray[np.int64], neighbors: sparse.csr_matrix | None
) -> NDArray[np.float32]:
    r"""In which direction of gene space every spot deviates from the mean spot, (n, D), mean squared length 1.

    Its product with the unit vector of a gene says how much more of it than in a mean spot is expected. Residuals are
    :math:`(x_{ij} - L_i p_j) / \sqrt{L_i p_j + 0.01}`, clipped at 5, with the share :math:`p_j` of a gene in all
    counts. Directions, not residuals, are averaged with those of neighbouring spots: it is the same, and cheaper.
    """
    of_genes = np.zeros(len(panel))
    for _, block in by_block(spots):
        of_genes += np.asarray(block[:, panel].sum(0)).ravel()
    shares = (of_genes / max(of_genes.sum(), 1)).astype(np.float32)
    measured = vectors[panel]
    directions = np.empty((spots.n_obs, vectors.shape[1]), dtype=np.float32)
    for rows, block in by_block(spots):
        counts = block[:, panel].toarray()
        expected = counts.sum(1, keepdims=True) * shares
        residuals = (counts - expected) / np.sqrt(expected + LEAST_VARIANCE)
        directions[rows] = residuals.clip(-MAX_RESIDUAL, MAX_RESIDUAL) @ measured
    if neighbors is not None:
        directions = (1 - NEIGHBOR_SHARE) * directions + NEIGHBOR_SHARE * (neighbors @ directions)
    covariance = measured.T @ measured
    noise = NOISE * np.trace(covariance) / len(covariance)
    directions = np.linalg.solve(covariance + noise * np.eye(len(covariance)), directions.T).T
    length = np.sqrt(np.mean((directions**2).sum(1)))
    return (directions / max(length, 1e-12)).astype(np.float32)
