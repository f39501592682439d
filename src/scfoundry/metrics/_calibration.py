"""Whether a probability of 0.8 is right eight times in ten (Guo et al. 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["calibration"]


def calibration(confidence: ArrayLike, correct: ArrayLike, *, n_bins: int = 15) -> pd.Series:
    r"""Expected calibration error of the probabilities of predicted labels.

    Cells are sorted into :math:`M` bins of equal width by their confidence :cite:p:`guo2017calibration`. With
    :math:`n_b` cells in bin :math:`b`, of mean confidence :math:`p_b` and accuracy :math:`a_b`,

    .. math::

        \text{ece} = \sum_b \frac{n_b}{n} |a_b - p_b|,\qquad \text{max\_error} = \max_b |a_b - p_b|.

    Parameters
    ----------
    confidence
        Probability of the predicted label of every cell, (n_cells,).
    correct
        Whether it is the true one, (n_cells,).
    n_bins
        Number of bins; a bin holds its upper edge.

    Returns
    -------
    ``ece``, ``max_error`` over the bins that hold cells, ``overconfidence`` (mean confidence minus accuracy),
    ``confidence`` and ``accuracy``.

    Raises
    ------
    ValueError
        If there are no cells, the two differ in shape, a confidence is no probability, or there is no bin.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.metrics.calibration([0.9, 0.9, 0.6, 0.6], [True, True, True, False]).round(2)
    ece               0.10
    max_error         0.10
    overconfidence    0.00
    confidence        0.75
    accuracy          0.75
    dtype: float64
    """
    given, right = np.asarray(confidence, dtype=float), np.asarray(correct)
    if right.size and pd.api.types.infer_dtype(right.ravel(), skipna=False) == "boolean":
        # pandas compares strings to booleans of its own, which numpy takes for objects.
        right = right.astype(bool)
    if given.ndim != 1 or given.shape != right.shape or not given.size:
        msg = (
            f"confidence has shape {given.shape} and correct {right.shape}, but one value per cell is needed of both: "
            'correct = adata.obs["zero_shot"].astype(str) == adata.obs["cell_type"].astype(str); '
            'sf.metrics.calibration(adata.obs["zero_shot_score"], correct).'
        )
        raise ValueError(msg)
    if not ((given >= 0) & (given <= 1)).all():
        msg = f"confidence must be probabilities between 0 and 1; got {given.min():.3g} to {given.max():.3g}."
        raise ValueError(msg)
    if right.dtype != bool:
        msg = (
            f"correct must be True or False for every cell; got {right.dtype}. "
            "Compare labels: correct = predicted.astype(str) == truth.astype(str)."
        )
        raise ValueError(msg)
    if n_bins < 1:
        msg = f"n_bins must be at least 1; got {n_bins}. As published: n_bins=15."
        raise ValueError(msg)
    bins = np.clip(np.ceil(given * n_bins) - 1, 0, n_bins - 1).astype(int)
    sizes = np.bincount(bins, minlength=n_bins)
    gaps = np.abs(np.bincount(bins, right - given, minlength=n_bins))
    return pd.Series(
        {
            "ece": gaps.sum() / len(given),
            "max_error": (gaps / np.maximum(sizes, 1)).max(),
            "overconfidence": given.mean() - right.mean(),
            "confidence": given.mean(),
            "accuracy": right.mean(),
        }
    )
