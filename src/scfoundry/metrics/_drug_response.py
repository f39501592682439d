"""Scores of predicted drug responses, beside what the means of drugs and lines reach by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["drug_response"]

# Pairs that a correlation within a drug or a line needs.
LEAST = 3
N_ROUNDS = 50


def drug_response(
    measured: pd.DataFrame, predicted: pd.DataFrame, *, train: pd.DataFrame | None = None
) -> pd.DataFrame:
    r"""Agreement of predicted with measured responses: overall, within drugs, within lines, and beyond both means.

    Drugs differ in potency far more than lines in sensitivity, so that the mean of every drug correlates with the
    measured responses at 0.8 and above. What a model adds shows within drugs, and after the mean effects are removed:
    the additive model :math:`\mu + a_i + b_j` is fitted to the scored pairs, of the measured and of the predicted
    values, and the residuals are correlated.

    Parameters
    ----------
    measured
        Lines x drugs, NaN where nothing is to be scored.
    predicted
        The same for predictions; matched by names. Every measured pair needs one.
    train
        What was learned from, lines x drugs with NaN. With it two constants are scored as well: the mean of each drug,
        and the mean of the drug plus that of the line; overall means where a drug or line was not there.

    Returns
    -------
    One row for ``"predicted"``, and with ``train`` for ``"drug mean"`` and ``"drug + line mean"``; columns ``pearson``,
    ``spearman``, ``r2`` (1 - SSE / SST), ``rmse``, ``mae`` over all pairs; ``pearson_per_drug``, ``spearman_per_drug``,
    ``pearson_per_line``, means over drugs or lines with three pairs and varying measurements, a constant prediction
    counting as 0 (NaN if there are none); ``pearson_residual``, after the mean effects are removed; ``n_pairs``,
    ``n_drugs``, ``n_lines``, those that were averaged over.

    Raises
    ------
    ValueError
        If names repeat, nothing is measured, a measured pair has no prediction, or values are infinite.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scfoundry as sf
    >>> rng = np.random.default_rng(0)
    >>> truth = pd.DataFrame(rng.normal(size=(20, 4)) + 5 * np.arange(4))
    >>> scores = sf.metrics.drug_response(truth, truth * 0 + truth.mean(), train=truth)
    >>> bool(scores.loc["predicted", "pearson"] > 0.9), float(scores.loc["predicted", "pearson_per_drug"])
    (True, 0.0)
    """
    _check(measured, "measured")
    _check(predicted, "predicted")
    if train is not None:
        _check(train, "train")
    guess = predicted.reindex(index=measured.index, columns=measured.columns).to_numpy(dtype=np.float64)
    truth = measured.to_numpy(dtype=np.float64)
    scored = np.isfinite(truth)
    if not scored.any():
        msg = "Nothing is measured: all values of measured are missing. Pass responses.where(split.test)."
        raise ValueError(msg)
    if lacking := np.argwhere(scored & ~np.isfinite(guess)).tolist():
        line, drug = measured.index[lacking[0][0]], measured.columns[lacking[0][1]]
        msg = (
            f"{len(lacking)} measured pairs have no finite prediction, for example {line!r} with {drug!r}. Predict "
            "them, or leave them out: measured = measured.where(predicted.notna())."
        )
        raise ValueError(msg)
    rows = {"predicted": guess} | ({} if train is None else _constants(measured, train))
    return pd.DataFrame({name: _scores(truth, values, scored) for name, values in rows.items()}).T


def _check(table: pd.DataFrame, name: str) -> None:
    if not isinstance(table, pd.DataFrame) or not table.index.is_unique or not table.columns.is_unique:
        msg = (
            f"{name} must be a table of lines x drugs, each named once: pd.DataFrame(values, index=lines, "
            "columns=drugs)."
        )
        raise ValueError(msg)
    if np.isinf(table.to_numpy(dtype=np.float64)).any():
        msg = f"{name} holds infinite values. Leave them out: {name} = {name}.replace([np.inf, -np.inf], np.nan)."
        raise ValueError(msg)


def _constants(measured: pd.DataFrame, train: pd.DataFrame) -> dict[str, Array]:
    """Means of drugs, and these plus those of lines."""
    overall = float(np.nanmean(train.to_numpy(dtype=np.float64)))
    of_drug = train.mean().reindex(measured.columns).fillna(overall)
    of_line = (train - train.mean()).mean(axis=1).reindex(measured.index).fillna(0.0)
    drugs = np.broadcast_to(of_drug.to_numpy(dtype=np.float64), measured.shape)
    return {"drug mean": drugs, "drug + line mean": drugs + of_line.to_numpy(dtype=np.float64)[:, None]}


def _scores(truth: Array, guess: Array, scored: NDArray[np.bool_]) -> dict[str, float]:
    x, y = guess[scored], truth[scored]
    errors, spread = y - x, np.square(y - y.mean()).sum()
    per_drug = _within(truth, guess, scored)
    per_line = _within(truth.T, guess.T, scored.T)
    without = [_without_means(values, scored)[scored] for values in (guess, truth)]
    # What rounding leaves of a table that is additive itself.
    explained = np.std(without[0]) > 1e-8 * max(float(np.std(x)), 1e-300)
    return {
        "pearson": _correlation(x, y),
        "spearman": _correlation(stats.rankdata(x), stats.rankdata(y)),
        "r2": float(1 - np.square(errors).sum() / spread) if spread > 0 else np.nan,
        "rmse": float(np.sqrt(np.square(errors).mean())),
        "mae": float(np.abs(errors).mean()),
        "pearson_per_drug": _mean(_correlation(*pair) for pair in per_drug),
        "spearman_per_drug": _mean(_correlation(*map(stats.rankdata, pair)) for pair in per_drug),
        "pearson_per_line": _mean(_correlation(*pair) for pair in per_line),
        "pearson_residual": _correlation(*without) if explained else 0.0,
        "n_pairs": float(scored.sum()),
        "n_drugs": float(len(per_drug)),
        "n_lines": float(len(per_line)),
    }


def _within(truth: Array, guess: Array, scored: NDArray[np.bool_]) -> list[tuple[Array, Array]]:
    """Predicted and measured values of every column that says something."""
    columns = [(guess[scored[:, j], j], truth[scored[:, j], j]) for j in range(truth.shape[1])]
    return [(x, y) for x, y in columns if len(y) >= LEAST and np.ptp(y) > 0]


def _correlation(x: Array, y: Array) -> float:
    """Pearson correlation, 0 where one is constant."""
    if any(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in (x, y)):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else np.nan


def _without_means(values: Array, scored: NDArray[np.bool_]) -> Array:
    """Residuals of the additive model of the scored pairs, by alternating means."""
    rest = np.where(scored, values, 0.0)
    counts = [np.maximum(scored.sum(axis, keepdims=True), 1) for axis in (0, 1)]
    for _ in range(N_ROUNDS):
        for axis in (0, 1):
            rest = np.where(scored, rest - rest.sum(axis, keepdims=True) / counts[axis], 0.0)
    return rest
