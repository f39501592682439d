"""Which cells are sensitive to a drug: learned from labelled cells, or from the responses of bulk lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from scfoundry.stats.softmax_regression import softmax_regression
from scfoundry.tasks.drug_response.lines import EXPRESSION, Lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.tasks.drug_response.drug_response import DrugResponse

    Array = NDArray[np.float64]

__all__ = ["CellClassifier", "draw_shots", "left_out_probabilities", "transferred"]

RIDGES = (0.003, 0.03, 0.3)
# With fewer cells of a class there is nothing to choose a ridge by.
LEAST_TO_CHOOSE = 6
N_FOLDS = 5
# Cells that the mean variance of all features counts for in that of one.
PRIOR_CELLS = 20


class CellClassifier(NamedTuple):
    """Logistic regression on blocks of standardised features, every block of the same total variance."""

    center: dict[str, Array]
    scale: dict[str, Array]
    weights: Array
    bias: float

    @classmethod
    def fit(cls, blocks: Mapping[str, Array], sensitive: NDArray[np.bool_], ridge: float) -> CellClassifier:
        """Learn from cells, (n, F) each, and whether they are sensitive; scales are theirs alone."""
        center = {name: values.mean(0) for name, values in blocks.items()}
        scale = {}
        for name, values in blocks.items():
            variance = values.var(0)
            typical = variance.mean() if variance.any() else 1.0
            # What few cells vary by is mostly chance.
            steady = (len(values) * variance + PRIOR_CELLS * typical) / (len(values) + PRIOR_CELLS)
            scale[name] = np.sqrt(steady * values.shape[1] * len(blocks))
        start = cls(center, scale, np.zeros(0), 0.0)
        found, bias = softmax_regression(start.read(blocks), sensitive.astype(np.int64), 2, ridge=ridge)
        return cls(center, scale, found[:, 1] - found[:, 0], float(bias[1] - bias[0]))

    def read(self, blocks: Mapping[str, Array]) -> Array:
        """Standardised features side by side."""
        return np.hstack([(blocks[name] - self.center[name]) / self.scale[name] for name in self.center])

    def probabilities(self, blocks: Mapping[str, Array]) -> Array:
        """Probability that a cell is sensitive, (m,)."""
        return special.expit(self.read(blocks) @ self.weights + self.bias)


def draw_shots(
    sensitive: NDArray[np.bool_], rows: NDArray[np.int64], n_shots: int | float, seed: int
) -> NDArray[np.int64]:
    """Rows to learn from: so many cells per class, or a share of both, at least one of each."""
    rng, drawn = np.random.default_rng(seed), []
    for kind in (False, True):
        own = rng.permutation(rows[sensitive[rows] == kind])
        drawn.append(own[: n_shots if isinstance(n_shots, int) else max(1, round(n_shots * len(own)))])
    return np.concatenate(drawn)


def left_out_probabilities(blocks: Mapping[str, Array], sensitive: NDArray[np.bool_], seed: int) -> tuple[Array, float]:
    """Probability of every cell by fits without it, NaN if a class has one cell; and the ridge that is best by them."""
    smallest = min(int(sensitive.sum()), int((~sensitive).sum()))
    if smallest < 2:
        return np.full(len(sensitive), np.nan), RIDGES[1]
    rng, fold = np.random.default_rng(seed), np.zeros(len(sensitive), dtype=np.int64)
    n_folds = min(N_FOLDS, smallest)
    for kind in (False, True):
        own = rng.permutation(np.flatnonzero(sensitive == kind))
        fold[own] = np.arange(len(own)) % n_folds
    best: tuple[float, Array, float] = (np.inf, np.zeros(0), RIDGES[1])
    for ridge in RIDGES if smallest >= LEAST_TO_CHOOSE else RIDGES[1:2]:
        found = np.empty(len(sensitive))
        for number in range(n_folds):
            there, here = fold != number, fold == number
            fitted = CellClassifier.fit({k: v[there] for k, v in blocks.items()}, sensitive[there], ridge)
            found[here] = fitted.probabilities({k: v[here] for k, v in blocks.items()})
        loss = -float(np.log(np.where(sensitive, found, 1 - found).clip(min=1e-12)).mean())
        if loss < best[0]:
            best = loss, found, ridge
    return best[1], best[2]


def transferred(fitted: DrugResponse, drug: str, cells: Lines, compute: Compute) -> tuple[Array, Array]:
    r"""Predicted response of every cell, and probability of being sensitive beside the others, (n,) each.

    Cells and bulk lines differ in more than state: each gene is brought to the mean and deviation that it has in the
    lines. What remains is relative: the probability is :math:`\Phi(-z)` of the standardised prediction.
    """
    values = cells.blocks[EXPRESSION]
    deviation = values.std(0)
    apart = (values - values.mean(0)) / np.where(deviation > 0, deviation, 1)
    recipe = fitted.recipe
    kernels = recipe.blocks[EXPRESSION].kernels  # type: ignore[union-attr]
    moved = np.zeros_like(values)
    moved[:, kernels.columns] = apart[:, kernels.columns] * kernels.scale + kernels.center
    response = fitted.predict(
        Lines(cells.names, cells.blocks | {EXPRESSION: moved}, cells.measured),
        smiles={drug: fitted.smiles[drug]} if drug in fitted.smiles else None,
        compute=compute,
    )[drug].to_numpy()
    spread = response.std()
    return response, special.ndtr(-(response - response.mean()) / (spread if spread > 0 else 1.0))
