"""How good predictions are, by leaving out what is to be new: nothing of it is in a fit that predicts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry.tasks.drug_response.kernel_responses import KernelResponses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry.tasks.drug_response.units import Split

    Array = NDArray[np.float64]

__all__ = ["LEAST_LINES", "cross_validated"]

LEAST_LINES = 3  # to learn from, of all and of a drug


def cross_validated(
    blocks: Mapping[str, Array],
    response: Array,
    fingerprints: NDArray[np.uint8],
    structured: NDArray[np.int64],
    left_out: Sequence[NDArray[np.bool_]],
    split: Split,
) -> Array:
    """Predictions (n, D) of pairs by fits without their fold, NaN where there is none."""
    found = np.full(response.shape, np.nan)
    for left in left_out:
        shown = np.where(left, np.nan, response)
        # A drug may be in too few of the other lines.
        drugs = np.flatnonzero(np.isfinite(shown).sum(0) >= LEAST_LINES)
        lines = np.flatnonzero(np.isfinite(shown[:, drugs]).any(1))
        if len(drugs) < 2 or len(lines) < LEAST_LINES:
            continue
        of_drugs = np.isin(structured, drugs)
        here = {name: values[lines] for name, values in blocks.items()}
        known = np.searchsorted(drugs, structured[of_drugs])
        fitted, guess = KernelResponses.fit(
            here,
            shown[np.ix_(lines, drugs)],
            fingerprints[of_drugs],
            known,
            beyond_features=split == "warm",
        )
        if split == "cold_drug":
            new = structured[~of_drugs]
            if fitted.drugs is not None and len(new):
                values = shown[np.ix_(lines, drugs)]
                values = np.where(np.isfinite(values), values, guess)
                found[np.ix_(lines, new)] = fitted.predict_drugs(values, fingerprints[~of_drugs])
            continue
        everything = fitted.predict(blocks, {})
        if split == "warm":
            everything[lines] = guess
        predicted = np.full(response.shape, np.nan)
        predicted[:, drugs] = everything
        found[left] = predicted[left]
    return found
