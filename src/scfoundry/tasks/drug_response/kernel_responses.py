r"""Responses of lines to drugs in closed form.

The response of line :math:`i` to drug :math:`j` is the drug's mean and a sum over axes along which lines differ,

.. math:: y_{ij} = b_j + \sum_q s_{iq} v_{jq} + e_{ij}

Axes :math:`v` are principal components of the measured responses, so that drugs lend each other strength. Scores
:math:`s` of a new line are regressed on its features, :math:`b` and :math:`v` of a new drug on its fingerprint. What is
measured of a line says more: the residuals of drugs vary together, and a normal distribution of them carries over from
measured drugs to the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy import optimize

from scfoundry.data.fingerprints import tanimoto
from scfoundry.stats.completion import covariance, expected, left_out
from scfoundry.stats.kernel_ridge import KernelRidge
from scfoundry.tasks._fitted import prefixed, under
from scfoundry.tasks.drug_response.line_kernels import LineRegression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Blocks = Mapping[str, Array]
    Measured = Mapping[str, NDArray[np.bool_]]

__all__ = ["KernelResponses"]

MOST_AXES = 50
LEAST_DRUGS = 5
# Power of the similarity by which drugs are averaged.
NEARNESS = 8


@dataclass(frozen=True, eq=False)
class KernelResponses:
    """What was learned of D drugs."""

    mean: Array  # of every drug, (D,)
    axes: Array  # (D, Q)
    blocks: dict[str, LineRegression]
    weights: Array  # of the blocks
    residual: Array | None  # covariance of the drugs, (D, D), beyond what features say; None if not asked for
    fingerprints: NDArray[np.uint8]  # of the drugs that have a structure, (d, B)
    structured: NDArray[np.int64]  # which these are, (d,)
    drugs: KernelRidge | None  # means and axes of drugs by their fingerprints; None without enough structures

    @classmethod
    def fit(
        cls,
        blocks: Blocks,
        response: Array,
        fingerprints: NDArray[np.uint8],
        structured: NDArray[np.int64],
        *,
        beyond_features: bool = True,
    ) -> tuple[Self, Array]:
        """Learn from features of n lines and their responses (n, D), NaN where not measured.

        Also what every entry (n, D) is expected to be given the others of its line and other lines, the entry itself
        left out; ``beyond_features=False`` leaves out the former, and costs less.
        """
        mean = np.nanmean(response, axis=0)
        centred = response - mean
        filled = expected(centred, np.zeros_like(centred), covariance(centred))
        whole = np.where(np.isfinite(centred), centred, filled)
        shift = whole.mean(0)
        mean, whole = mean + shift, whole - shift
        axes = np.linalg.svd(whole, full_matrices=False)[2][: min(MOST_AXES, *whole.shape)].T
        # The sign of an axis is arbitrary.
        axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
        scores = whole @ axes
        found = {name: LineRegression.fit(values, scores) for name, values in blocks.items()}
        guesses = np.stack([values.ravel() for _, values in found.values()], axis=1)
        weights = optimize.nnls(guesses, scores.ravel())[0]
        predicted = mean + (guesses @ weights).reshape(scores.shape) @ axes.T
        residual = None
        if beyond_features:
            residual = covariance(response - predicted)
            predicted = left_out(response, predicted)
        drugs = None
        if len(structured) >= LEAST_DRUGS:
            of_drugs = np.column_stack([mean, axes])[structured]
            drugs = KernelRidge.fit(tanimoto(fingerprints, fingerprints), of_drugs)[0]
        regressions = {name: regression for name, (regression, _) in found.items()}
        return cls(mean, axes, regressions, weights, residual, fingerprints, structured, drugs), predicted

    def predict(self, blocks: Blocks, measured: Measured, response: Array | None = None) -> Array:
        """Responses of m lines that were not learned from, (m, D), given those that are measured, NaN elsewhere."""
        scores = [
            weight * regression.predict(blocks[name], measured.get(name))
            for weight, (name, regression) in zip(self.weights, self.blocks.items(), strict=True)
        ]
        prior = self.mean + np.sum(scores, axis=0) @ self.axes.T
        if response is None or self.residual is None or not np.isfinite(response).any():
            return prior
        return expected(response, prior, self.residual)

    def predict_drugs(self, responses: Array, fingerprints: NDArray[np.uint8]) -> Array:
        """Responses of lines to new drugs, (m, d), from those to the drugs that were learned from, (m, D)."""
        if self.drugs is None:
            msg = (
                f"Drugs of which only the structure is known are predicted by at least {LEAST_DRUGS} others with "
                f"SMILES and responses; there are {len(self.structured)}. Give more of them: smiles[drug] = ..."
            )
            raise ValueError(msg)
        similarity = tanimoto(fingerprints, self.fingerprints)
        # The nearest drugs say more of a profile, the regression more of its mean.
        near = similarity**NEARNESS + np.finfo(np.float64).tiny
        of_drugs = np.column_stack([self.mean, self.axes])[self.structured]
        nearest = near @ of_drugs / near.sum(1, keepdims=True)
        found = (self.drugs.predict(similarity) + nearest) / 2
        return found[:, 0] + (responses - self.mean) @ self.axes @ found[:, 1:].T

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` reads."""
        arrays: dict[str, NDArray] = {"mean": self.mean, "axes": self.axes, "weights": self.weights}
        arrays |= {"fingerprints": self.fingerprints, "structured": self.structured}
        arrays["names"] = np.array(list(self.blocks), dtype=str)
        if self.residual is not None:
            arrays["residual"] = self.residual
        if self.drugs is not None:
            arrays |= prefixed("drugs_", self.drugs.arrays())
        for number, regression in enumerate(self.blocks.values()):
            arrays |= prefixed(f"block{number}_", regression.arrays())
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """The same again."""
        blocks = {
            str(name): LineRegression.from_arrays(under(f"block{number}_", arrays))
            for number, name in enumerate(arrays["names"])
        }
        return cls(
            arrays["mean"],
            arrays["axes"],
            blocks,
            arrays["weights"],
            arrays.get("residual"),
            arrays["fingerprints"],
            arrays["structured"],
            KernelRidge.from_arrays(under("drugs_", arrays)) if "drugs_weights" in arrays else None,
        )
