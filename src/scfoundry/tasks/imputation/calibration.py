"""Learned from hidden genes: how much each kind of evidence is worth, and how far to trust what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.optimize import minimize
from sklearn.isotonic import isotonic_regression

from scfoundry.stats.similarity import partial_pearson, pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Confidence", "RisingLine", "fit_weights", "rates"]

# A gene with fewer counts is not informative about where they lie.
MIN_COUNTS = 10
MIN_GENES = 5


def fit_weights(
    counts: NDArray[np.float32], evidence: NDArray[np.float32], default: NDArray[np.float64], used: NDArray[np.bool_]
) -> NDArray:
    r"""Exponents of a product of evidence, by the likelihood of where the counts of hidden genes lie.

    Given the total of a gene, its counts over n spots are multinomial with shares
    :math:`p_{ij} \propto \exp \sum_e b_e f_{eij}`: a Poisson regression with one intercept per gene, the coefficients
    shared by all genes and not negative. The likelihood is concave in them.

    Counts (n, g), log evidence f (E, n, g), ``default`` coefficients where too few genes have counts enough to tell
    (E,), and which kinds may have another coefficient than 0, (E,); to coefficients b, (E,).
    """
    enough = counts.sum(0) >= MIN_COUNTS
    default = np.where(used, default, 0.0)
    if enough.sum() < MIN_GENES:
        return default
    counts, evidence = counts[:, enough].astype(np.float64), evidence[:, :, enough].astype(np.float64)
    totals = counts.sum(0)
    observed = np.einsum("ng,eng->e", counts, evidence)

    def loss(weights: NDArray) -> tuple[float, NDArray]:
        score = np.tensordot(weights, evidence, 1)
        score -= score.max(0)
        normaliser = np.log(np.exp(score).sum(0))
        expected = np.einsum("ng,eng->e", np.exp(score - normaliser) * totals, evidence)
        value = (counts * (normaliser - score)).sum()
        return value / totals.sum(), (expected - observed) / totals.sum()

    return minimize(loss, default, jac=True, method="L-BFGS-B", bounds=[(0, None if may else 0) for may in used]).x


def rates(evidence: NDArray[np.float32], weights: NDArray, levels: NDArray, *, empty: NDArray) -> NDArray[np.float32]:
    """Expected counts from evidence, (n, g), a mean of ``levels`` (g,) per spot; 0 for ``empty`` spots (n,)."""
    score = np.tensordot(weights.astype(np.float32), evidence, 1)
    score[empty] = -np.inf
    score -= score.max(0)
    rate = np.exp(score)
    return (rate * (levels / np.maximum(rate.mean(0), 1e-12))).astype(np.float32)


@dataclass(frozen=True)
class RisingLine:
    """Centred isotonic regression: straight lines between the middles of the steps that isotonic regression finds.

    Its steps give many genes one value; on a line, genes differ as their predictions do. Before the first and after the
    last middle the line is level, so that it stays within the fitted range.
    """

    middles: NDArray[np.float64]  # x of the steps, rising
    levels: NDArray[np.float64]  # y of the steps

    @classmethod
    def fit(cls, x: NDArray[np.float64], y: NDArray[np.float64]) -> Self:
        """Fit a line from 0 to 1 that never falls."""
        # Of equal x the higher y come first, so that they fall into one step.
        order = np.lexsort((-y, x))
        levels, step = np.unique(isotonic_regression(y[order], y_min=0, y_max=1), return_inverse=True)
        return cls(np.bincount(step, x[order]) / np.bincount(step), levels)

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Height of the line."""
        return np.interp(x, self.middles, self.levels)


@dataclass(frozen=True)
class Confidence:
    r"""What correlation with the truth to expect of a gene; `None` if too few genes could be hidden.

    If the rates of a gene are right and its counts are Poisson, their correlation is
    :math:`\sqrt{v / (v + m)}`, with mean m and variance v of the rates over spots. What hidden genes reached in truth,
    given this, is fitted by isotonic regression; nothing below 0 is expected of a gene. Of genes with very few counts
    too much is expected: those with fewer than 10 cannot be among the hidden ones.
    """

    pearson: RisingLine | None
    partial: RisingLine | None  # beyond library size

    @classmethod
    def fit(cls, counts: NDArray[np.float32], rate: NDArray[np.float32], library: NDArray) -> Confidence:
        """Learn from hidden genes: counts and rates (n, g), library sizes (n,)."""
        enough = np.flatnonzero(counts.sum(0) >= MIN_COUNTS)
        if len(enough) < MIN_GENES:
            return cls(None, None)
        truth, predicted = (np.log1p(x[:, enough].astype(np.float64)) for x in (counts, rate))
        ideal = ideal_correlation(rate[:, enough])
        reached = pearson(truth, predicted), partial_pearson(truth, predicted, library)
        return cls(*(RisingLine.fit(ideal, np.nan_to_num(values)) for values in reached))

    def __call__(self, rate: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Expected Pearson and partial Pearson correlation of every gene, (g,) each; NaN if nothing was learned."""
        ideal = ideal_correlation(rate)
        unknown = np.full(len(ideal), np.nan)
        expected, beyond = (unknown if fit is None else fit(ideal) for fit in (self.pearson, self.partial))
        return expected, beyond


def ideal_correlation(rate: NDArray[np.float32]) -> NDArray:
    """Correlation of Poisson counts with their rates, (n, g) to (g,)."""
    variance, mean = rate.var(0, dtype=np.float64), rate.mean(0, dtype=np.float64)
    return np.sqrt(variance / np.maximum(variance + mean, 1e-12))
