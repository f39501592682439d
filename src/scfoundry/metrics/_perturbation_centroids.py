"""Whether predicted profiles tell perturbations from each other (Viñas Torné et al. 2025)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from scfoundry.stats.similarity import pearson

__all__ = ["perturbation_centroids"]

_MIN_PERTURBATIONS = 3


def perturbation_centroids(measured: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    r"""Scores of predicted profiles that what all perturbations have in common cannot raise.

    Perturbed cells differ from controls in much that is the same whatever was perturbed: selection, stress, the
    technique. A prediction of that alone has a high `perturbation` score. Here profiles :math:`x_p` are compared with
    those of the other perturbations, as Systema does :cite:p:`vinastorne2025systema`:

    .. math::

        \text{centroid accuracy}_p = \frac{1}{P - 1} \sum_{q \ne p}
            \bigl[\, \lVert \hat x_p - x_p \rVert < \lVert \hat x_p - x_q \rVert \,\bigr],

    0.5 by chance, and Pearson's correlation of the changes from the mean of all *perturbed* profiles,
    :math:`\hat x_p - \bar x` and :math:`x_p - \bar x` with :math:`\bar x = \frac1P \sum_q x_q`, 0 for a prediction that
    is the same for all but noise.

    Parameters
    ----------
    measured
        Mean profile of every perturbation, (P, n_genes), perturbations by rows, log-normalised.
    predicted
        The same as predicted; matched by names of rows and columns, of which there may be more in ``measured``.

    Returns
    -------
    One row per predicted perturbation: ``centroid_accuracy`` and ``pearson_perturbed``; the latter is NaN where a
    change is constant.

    Raises
    ------
    ValueError
        If a predicted perturbation or gene was not measured, names repeat, values are missing, or fewer than three
        perturbations were measured.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scfoundry as sf
    >>> measured = pd.DataFrame(np.random.default_rng(0).normal(size=(5, 20)), index=list("abcde"))
    >>> sf.metrics.perturbation_centroids(measured, measured + 0.01)["centroid_accuracy"].mean()
    np.float64(1.0)
    """
    _check(measured, predicted)
    truth = measured[predicted.columns].to_numpy(dtype=np.float64)
    guess = predicted.to_numpy(dtype=np.float64)
    own = measured.index.get_indexer(predicted.index)
    distances = cdist(guess, truth)
    of_own = distances[np.arange(len(own)), own]
    # Its own profile is not nearer than itself, and is not counted.
    nearer = (of_own[:, None] < distances).sum(1) / (len(truth) - 1)
    centre = truth.mean(0)
    correlation = pearson(guess - centre, truth[own] - centre, axis=1)
    return pd.DataFrame({"centroid_accuracy": nearer, "pearson_perturbed": correlation}, index=predicted.index)


def _check(measured: pd.DataFrame, predicted: pd.DataFrame) -> None:
    if len(measured) < _MIN_PERTURBATIONS:
        msg = (
            f"measured has {len(measured)} perturbations, too few to tell one from others; at least "
            f"{_MIN_PERTURBATIONS} are needed. To score a single one: sf.metrics.perturbation."
        )
        raise ValueError(msg)
    for what, names, known in (
        ("perturbations", predicted.index, measured.index),
        ("genes", predicted.columns, measured.columns),
    ):
        if (repeated := known[known.duplicated()].unique()).size or (
            repeated := names[names.duplicated()].unique()
        ).size:
            msg = f"Names of {what} repeat: {', '.join(map(str, repeated[:5]))}. Take the mean of each first."
            raise ValueError(msg)
        if (unknown := names.difference(known)).size:
            shown = ", ".join(map(str, unknown[:5]))
            msg = f"{len(unknown)} predicted {what} were not measured: {shown}. Leave them out."
            raise ValueError(msg)
    for name, values in {"measured": measured, "predicted": predicted}.items():
        if not np.isfinite(values.to_numpy(dtype=np.float64)).all():
            msg = f"{name} holds missing or infinite values. Leave those genes out: {name}.dropna(axis=1)."
            raise ValueError(msg)
