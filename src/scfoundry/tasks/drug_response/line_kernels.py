"""How alike lines are by one block of features: expression, a model's latent, mutations, tissues."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy import linalg

from scfoundry.stats.kernel_ridge import KernelRidge, correlations, distances
from scfoundry.tasks._fitted import prefixed, under

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["LineRegression"]

# Features that vary most; more than this add noise, and weight on disk.
MOST_FEATURES = 3000
N_AXES = 30
NAMES = ("linear", "exponential of correlation", "axes", "Gaussian of axes")


@dataclass(frozen=True, eq=False)
class LineKernels:
    """Four kernels of p standardised features and of their k first principal axes, each brought to unit variance."""

    columns: NDArray[np.int64]  # features that are read, (p,)
    center: Array  # (p,)
    scale: Array  # (p,)
    axes: Array  # (p, k)
    lines: Array  # training lines, standardised, (n, p)
    widths: Array  # of the exponential and the Gaussian kernel, (2,)

    @classmethod
    def fit(cls, features: Array) -> Self:
        """Scale, axes and widths by training lines alone, (n, F)."""
        deviation = features.std(0)
        varying = np.flatnonzero(deviation > 0)
        columns = np.sort(varying[np.argsort(-deviation[varying], kind="stable")[:MOST_FEATURES]])
        center, scale = features[:, columns].mean(0), deviation[columns]
        lines = (features[:, columns] - center) / scale
        _, values, right = linalg.svd(lines, full_matrices=False)
        k = min(N_AXES, int((values > 1e-9 * max(values.max(initial=0), 1)).sum()))
        # The sign of an axis is arbitrary; no kernel depends on it.
        axes = right[:k].T / values[:k] * np.sqrt(len(lines))
        apart = np.sqrt(2 * (1 - correlations(lines, lines)).clip(min=0))
        placed = lines @ axes
        pairs = ~np.eye(len(lines), dtype=bool)
        widths = np.array([_typical(apart[pairs]), _typical(distances(placed, placed)[pairs])])
        return cls(columns, center, scale, axes, lines, widths)

    def standardised(self, features: Array, measured: NDArray[np.bool_] | None = None) -> Array:
        """Features (m, F) as the kernels read them, (m, p); what was not measured is as in the mean line."""
        values = (features[:, self.columns] - self.center) / self.scale
        return values if measured is None else np.where(measured[self.columns], values, 0.0)

    def kernels(self, values: Array) -> list[Array]:
        """Kernels of standardised lines with the training lines, each (m, n), in the order of ``NAMES``."""
        apart = np.sqrt(2 * (1 - correlations(values, self.lines)).clip(min=0))
        placed, of_training = values @ self.axes, self.lines @ self.axes
        return [
            values @ self.lines.T / max(len(self.columns), 1),
            np.exp(-apart / self.widths[0]),
            placed @ of_training.T / max(self.axes.shape[1], 1),
            np.exp(-distances(placed, of_training) / self.widths[1]),
        ]


def _typical(values: Array) -> float:
    """Median, 1 if all lines are the same."""
    middle = float(np.median(values)) if values.size else 0.0
    return middle if middle > 0 else 1.0


@dataclass(frozen=True, eq=False)
class LineRegression:
    """Targets of lines by one block: the mean of what its kernels predict."""

    kernels: LineKernels
    ridges: tuple[KernelRidge, ...]

    @classmethod
    def fit(cls, features: Array, targets: Array) -> tuple[Self, Array]:
        """Fit to (n, F) and (n, T); also what every line is predicted to be if left out, (n, T)."""
        kernels = LineKernels.fit(features)
        found = [KernelRidge.fit(kernel, targets) for kernel in kernels.kernels(kernels.lines)]
        ridges, left_out = zip(*found, strict=True)
        return cls(kernels, ridges), np.mean(left_out, axis=0)

    def predict(self, features: Array, measured: NDArray[np.bool_] | None = None) -> Array:
        """Targets of m lines, (m, F) to (m, T)."""
        kernels = self.kernels.kernels(self.kernels.standardised(features, measured))
        return np.mean([ridge.predict(kernel) for ridge, kernel in zip(self.ridges, kernels, strict=True)], axis=0)

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` reads."""
        arrays = {field.name: getattr(self.kernels, field.name) for field in fields(self.kernels)}
        for number, ridge in enumerate(self.ridges):
            arrays |= prefixed(f"ridge{number}_", ridge.arrays())
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """The same again."""
        kernels = LineKernels(**{field.name: arrays[field.name] for field in fields(LineKernels)})
        return cls(kernels, tuple(KernelRidge.from_arrays(under(f"ridge{i}_", arrays)) for i in range(len(NAMES))))
