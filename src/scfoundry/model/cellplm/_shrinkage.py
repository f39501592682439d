r"""Changes of expression, shrunken as far as their noise asks for.

The measured change of gene :math:`j` under condition :math:`i` is its true change and noise. A kernel :math:`K` says
how far the true changes of two conditions go together, and :math:`N` is the noise covariance of the means, both per
unit of variance. In units of the gene's standard deviation among like cells,

.. math:: y_j \sim \mathcal N(0,\; r_j K + N), \qquad \mathbb E[y_j^* \mid y_j] = r_j K^* (r_j K + N)^{-1} y_j.

How strongly a gene responds at all, :math:`r_j`, is not one number: genes share a distribution of it over a grid, which
is fitted to all of them (empirical Bayes), so that silent genes are shrunken to nothing and responsive ones hardly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Shrunken", "shrink"]

RATIOS = np.geomspace(1e-4, 10, 21)
"""Variance of true changes, in units of the variance among like cells."""

N_UPDATES = 30
"""Of the shares of genes over these ratios (expectation maximisation), which settle within ten."""


@dataclass(frozen=True)
class Shrunken:
    """What was learned of the changes.

    Attributes
    ----------
    coefficients
        (n, G); changes of further conditions are their kernel with the n learned ones, (m, n), times these.
    residuals
        (n, G); of anything else that goes together with the measured changes, its covariance with them, per unit of
        variance, (n,), times these: so the noise of controls that several changes share is told apart from a change.
    evidence
        Logarithm of the probability of all measured changes under the kernel.
    """

    coefficients: Array
    residuals: Array
    evidence: float


def shrink(kernel: Array, noise: Array, changes: Array) -> Shrunken:
    """Learn from measured changes.

    Parameters
    ----------
    kernel
        How far true changes of conditions go together, (n, n), positive semi-definite.
    noise
        Covariance of the measured means per unit of variance among like cells, (n, n), positive definite.
    changes
        Measured changes in standard deviations among like cells, (n, G).
    """
    root = np.linalg.cholesky(noise)
    whitened = np.linalg.solve(root, np.linalg.solve(root, kernel).T)
    strengths, axes = np.linalg.eigh((whitened + whitened.T) / 2)
    scores = axes.T @ np.linalg.solve(root, changes)
    variances = 1 + RATIOS[:, None] * strengths.clip(min=0)  # (R, n)
    log_likelihood = -0.5 * (np.log(variances).sum(1)[:, None] + (1 / variances) @ scores**2)  # (R, G)
    highest = log_likelihood.max(0)
    likelihood = np.exp(log_likelihood - highest)
    shares = np.full(len(RATIOS), 1 / len(RATIOS))
    for _ in range(N_UPDATES):
        shares = shares * (likelihood @ (1 / (shares @ likelihood))) / likelihood.shape[1]
    mixture = shares @ likelihood
    weights = shares[:, None] * likelihood / mixture
    evidence = float((np.log(mixture) + highest).sum())
    explained, left = (factor.T @ weights * scores for factor in (RATIOS[:, None] / variances, 1 / variances))  # (n, G)
    coefficients, residuals = (np.linalg.solve(root.T, axes @ part) for part in (explained, left))
    return Shrunken(coefficients, residuals, evidence)
