r"""Changes of expression, shrunken as far as their noise asks for.

The measured change of gene :math:`j` under condition :math:`i` is its true change and noise. A kernel :math:`K_k` says
how far the true changes of two conditions go together, and :math:`N` is the noise covariance of the means, both per
unit of variance. In units of the gene's standard deviation among like cells,

.. math:: y_j \sim \mathcal N(0,\; r K_k + N), \qquad \mathbb E[y_j^* \mid y_j] = r K_k^* (r K_k + N)^{-1} y_j.

How strongly a gene responds at all, :math:`r`, and which of several kernels it follows is not the same for all genes.
Genes share a distribution over pairs :math:`(k, r)`, fitted to all of them (empirical Bayes), and every gene weighs the
pairs by how well they explain it: silent genes are shrunken to nothing and responsive ones hardly, a gene that responds
everywhere alike is separated from one that goes its own way in every group of cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["shrink"]

# Variance of true changes, in units of the variance among like cells.
RATIOS = np.geomspace(1e-4, 10, 21)
# Of the shares of genes over kernels and ratios (expectation maximisation), which settle within these.
N_UPDATES = 30


@dataclass(frozen=True)
class Shrunken:
    """What was learned of the changes.

    Changes of m further conditions are the sum over parts of kernels of their part with the n learned conditions, (m,
    n), times ``coefficients``. Of anything else that goes together with the measured changes, its covariance with them,
    per unit of variance, (n,), times ``residuals``: so the noise of controls that several changes share is separated
    from a change.
    """

    coefficients: Array  # (B, n, G)
    residuals: Array  # (n, G)
    evidence: float  # logarithm of the probability of all measured changes


def shrink(parts: Array, mixture: Array, noise: Array, changes: Array) -> Shrunken:
    """Learn from measured changes in standard deviations among like cells, (n, G).

    Kernels are mixtures (K, B) of parts (B, n, n), positive semi-definite; the noise is the covariance of the measured
    means per unit of variance among like cells, (n, n), positive definite.
    """
    root = np.linalg.cholesky(noise)
    whitened = np.linalg.solve(root, changes)
    modes = [_modes(np.tensordot(shares, parts, 1), root) for shares in mixture]
    log_likelihood = np.concatenate(
        [
            -0.5 * (np.log(variances).sum(1)[:, None] + (1 / variances) @ (axes.T @ whitened) ** 2)
            for variances, axes in modes
        ]
    )  # (K * R, G)
    highest = log_likelihood.max(0)
    likelihood = np.exp(log_likelihood - highest)
    shares = np.full(len(likelihood), 1 / len(likelihood))
    for _ in range(N_UPDATES):
        shares = shares * (likelihood @ (1 / (shares @ likelihood))) / likelihood.shape[1]
    total = shares @ likelihood
    weights = (shares[:, None] * likelihood / total).reshape(len(mixture), len(RATIOS), -1)

    coefficients, residuals = np.zeros((len(parts), *changes.shape)), np.zeros(changes.shape)
    for (variances, axes), weight, part in zip(modes, weights, mixture, strict=True):
        scores = axes.T @ whitened
        explained = np.linalg.solve(root.T, axes @ ((RATIOS[:, None] / variances).T @ weight * scores))
        coefficients += part[:, None, None] * explained
        residuals += np.linalg.solve(root.T, axes @ ((1 / variances).T @ weight * scores))
    return Shrunken(coefficients, residuals, float((np.log(total) + highest).sum()))


def _modes(kernel: NDArray[np.floating], root: NDArray[np.floating]) -> tuple[Array, Array]:
    """Variance of every mode at every ratio, (R, n), and the modes, (n, n), where noise is white."""
    whitened = np.linalg.solve(root, np.linalg.solve(root, kernel).T)
    strengths, axes = np.linalg.eigh((whitened + whitened.T) / 2)
    return 1 + RATIOS[:, None] * strengths.clip(min=0), axes
