r"""Kernel ridge regression of many targets, each with the penalty that predicts left-out rows best.

With a kernel centred on the training rows, :math:`\tilde K = Q \Lambda Q^\top`, the residual of a row that was left out
is :math:`e_i / (1 - H_{ii})`, where :math:`e` is that of the fit to all rows and :math:`H = Q \Lambda (\Lambda +
\lambda)^{-1} Q^\top + 1/n`: one decomposition serves all penalties and all targets (Rasmussen and Williams 2006, 5.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["KernelRidge", "correlations", "distances"]

# Penalties, in mean eigenvalues of the kernel; the largest leaves next to nothing but the mean.
PENALTIES = np.logspace(-2, 4, 25)
LEAST_FREEDOM = 1e-6


@dataclass(frozen=True, eq=False)
class KernelRidge:
    """Weights of n training rows for T targets."""

    weights: NDArray[np.float64]  # (n, T)
    intercept: NDArray[np.float64]  # (T,)

    @classmethod
    def fit(cls, kernel: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[Self, NDArray[np.float64]]:
        """Fit to a kernel (n, n) and targets (n, T); also what every row is predicted to be if left out, (n, T)."""
        n, center = len(kernel), kernel.mean(0)
        centred = kernel - center
        values, vectors = np.linalg.eigh(centred - centred.mean(1, keepdims=True))
        values = values.clip(min=0)
        mean = targets.mean(0)
        turned, squared = vectors.T @ (targets - mean), vectors**2
        lowest = np.full(targets.shape[1], np.inf)
        weights, left_out = np.zeros_like(targets), np.broadcast_to(mean, targets.shape).copy()
        for penalty in PENALTIES * max(values.mean(), np.finfo(np.float64).tiny):
            kept = penalty / (values + penalty)
            freedom = np.maximum(squared @ kept - 1 / n, LEAST_FREEDOM)
            errors = vectors @ (kept[:, None] * turned) / freedom[:, None]
            squares = np.square(errors).mean(0)
            better = squares < lowest
            lowest[better] = squares[better]
            left_out[:, better] = targets[:, better] - errors[:, better]
            weights[:, better] = vectors @ (turned[:, better] / (values + penalty)[:, None])
        return cls(weights, mean - center @ weights), left_out

    def predict(self, kernel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Targets of m rows by their kernel with the training rows, (m, n) to (m, T)."""
        return kernel @ self.weights + self.intercept

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` reads."""
        return {"weights": self.weights, "intercept": self.intercept}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """The same again."""
        return cls(arrays["weights"], arrays["intercept"])


def distances(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Euclidean distances, (m, p) and (n, p) to (m, n)."""
    lengths = np.square(rows).sum(1)[:, None] + np.square(others).sum(1)
    return np.maximum(lengths - 2 * rows @ others.T, 0)


def correlations(rows: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of rows, (m, p) and (n, p) to (m, n); 0 of a constant one."""
    unit = []
    for values in (rows, others):
        centred = values - values.mean(1, keepdims=True)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        unit.append(centred / np.where(length > 0, length, 1))
    return unit[0] @ unit[1].T
