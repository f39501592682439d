"""Scores of the predicted response to a perturbation, against controls that the prediction has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from scfoundry.data.similarity import pearson
from scfoundry.metrics._matrices import dense, in_memory

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import sparray, spmatrix

    Cells: TypeAlias = np.ndarray | spmatrix | sparray | pd.DataFrame

__all__ = ["perturbation"]

LEAST_CELLS = 4


def perturbation(
    cells: Cells,
    controls: Cells,
    predicted: ArrayLike | pd.Series,
    predicted_control: ArrayLike | pd.Series,
    *,
    n_top: int = 20,
    n_halves: int = 10,
    rng: int | np.random.Generator | None = 0,
) -> pd.Series:
    r"""Agreement of a predicted mean profile with cells that were perturbed.

    With the mean :math:`\bar x` of `cells`, the mean :math:`\bar c` of `controls`, the prediction :math:`\hat x` and
    the control profile :math:`\hat c` that it started from, the predicted change :math:`\hat x - \hat c` is compared
    with the measured one :math:`\bar x - \bar c`. The two control profiles must come from different cells: noise of
    controls that truth and prediction share is a change that anything predicts.

    Parameters
    ----------
    cells
        Perturbed cells, (n_cells, n_genes), log-normalised.
    controls
        Control cells that the prediction has not seen, (n_controls, n_genes), on the same scale.
    predicted
        Predicted mean profile, (n_genes,), on the same scale.
    predicted_control
        Mean profile of the controls that the prediction started from, (n_genes,).
    n_top
        Number of most differentially expressed genes, by the absolute t statistic (unequal variances) of the measured
        cells.
    n_halves
        How often cells are halved for the ceiling.
    rng
        Seed or generator of the halves.

    Returns
    -------
    ``rmse`` over all genes, ``rmse_nonzero`` over those that the perturbed cells express, ``rmse_top`` over the most
    differentially expressed; ``pearson_delta`` and ``pearson_delta_top``, the Pearson correlation of predicted and
    measured change over the same genes; ``ceiling``, the same correlation of the change of one half of the perturbed
    cells (from `controls`) with that of the other (from `predicted_control`), mean over halvings.

    Correlations are NaN where a change is constant, as that of "no change" is. A ceiling near 0 says that the
    perturbation did nothing that these cells can show. It is no upper bound: halves are noisier than a good prediction.

    Raises
    ------
    ValueError
        If genes do not match, values are missing, or there are fewer than four cells or controls.

    Examples
    --------
    >>> import numpy as np
    >>> import scfoundry as sf
    >>> rng = np.random.default_rng(0)
    >>> control, effect = rng.gamma(1.0, size=50), np.r_[np.ones(5), np.zeros(45)]
    >>> cells = rng.normal(control + effect, 0.3, (40, 50))
    >>> controls, others = rng.normal(control, 0.3, (2, 40, 50))
    >>> scores = sf.metrics.perturbation(cells, controls, others.mean(0) + effect, others.mean(0))
    >>> bool(scores["pearson_delta"] > 0.9)
    True
    """
    cells, controls = in_memory(cells), in_memory(controls)
    genes = cells.columns if isinstance(cells, pd.DataFrame) else None
    measured = _two_dimensional(cells, genes, name="cells")
    unperturbed = _two_dimensional(controls, genes, name="controls")
    n_genes = measured.shape[1]
    guess, start = (
        _matched(values, genes, name).astype(np.float64)
        for name, values in {"predicted": predicted, "predicted_control": predicted_control}.items()
    )
    for name, values in {"controls": unperturbed[0], "predicted": guess, "predicted_control": start}.items():
        if values.shape != (n_genes,):
            msg = f"{name} has {values.size} values per cell, but cells has {n_genes} genes; both need the same genes."
            raise ValueError(msg)
        if not np.isfinite(values).all():
            msg = f"{name} holds missing or infinite values. Leave those genes out of all four arguments."
            raise ValueError(msg)

    truth, control = measured.mean(0), unperturbed.mean(0)
    error, expressed = guess - truth, truth > 0
    changes = np.stack([truth - control, guess - start])
    top = np.argsort(-np.abs(_t_statistic(measured, unperturbed)), kind="stable")[:n_top]
    return pd.Series(
        {
            "rmse": _root_mean_square(error),
            "rmse_nonzero": _root_mean_square(error[expressed]),
            "rmse_top": _root_mean_square(error[top]),
            "pearson_delta": float(pearson(*changes)),
            "pearson_delta_top": float(pearson(*changes[:, top])),
            "ceiling": _halves(measured, control, start, n_halves, np.random.default_rng(rng)),
        }
    )


def _two_dimensional(values: Cells, genes: pd.Index | None, *, name: str) -> NDArray[np.float64]:
    matched = values if genes is None or not isinstance(values, pd.DataFrame) else _matched(values, genes, name)
    if np.ndim(matched) != 2 or matched.shape[0] < LEAST_CELLS:
        msg = (
            f"{name} has shape {np.shape(matched)}, but must be cells x genes with at least {LEAST_CELLS} cells: "
            "a change is scored beside that of half of the cells."
        )
        raise ValueError(msg)
    return dense(matched, name=name)


def _matched(values: ArrayLike | pd.Series | pd.DataFrame, genes: pd.Index | None, name: str) -> NDArray:
    """Values in the order of the genes, by name where there are names."""
    if genes is None or not isinstance(values, pd.Series | pd.DataFrame):
        return np.asarray(values)
    labels = values.columns if isinstance(values, pd.DataFrame) else values.index
    absent = genes.difference(labels, sort=False)
    if len(absent):
        msg = (
            f"{name} lacks {len(absent)} of the {len(genes)} genes of cells: {', '.join(map(str, absent[:5]))}. "
            "Score the shared ones: cells = cells[cells.columns.intersection(genes)]."
        )
        raise ValueError(msg)
    return values[genes].to_numpy()


def _t_statistic(cells: NDArray[np.float64], controls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Welch's t of every gene; 0 where a gene is constant in both and equal, huge where constant and different."""
    variance = cells.var(0, ddof=1) / len(cells) + controls.var(0, ddof=1) / len(controls)
    return (cells.mean(0) - controls.mean(0)) / np.sqrt(variance + np.finfo(np.float64).tiny)


def _root_mean_square(error: NDArray[np.float64]) -> float:
    return float(np.sqrt((error**2).mean())) if error.size else np.nan


def _halves(
    cells: NDArray[np.float64],
    control: NDArray[np.float64],
    other_control: NDArray[np.float64],
    n_halves: int,
    rng: np.random.Generator,
) -> float:
    """Correlation of the changes of two halves of the cells, each from controls of its own."""
    found = []
    for _ in range(n_halves):
        order = rng.permutation(len(cells))
        first, second = (cells[half].mean(0) for half in np.array_split(order, 2))
        found.append(float(pearson(first - control, second - other_control)))
    return float(np.mean(found)) if found else np.nan
