"""Scores of the predicted response to a perturbation, against controls that the prediction has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from scfoundry.metrics._matrices import blocks, by_gene, dense, in_memory
from scfoundry.stats.similarity import attainable, pearson

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
    cells, controls
        Perturbed cells, and controls that the prediction has not seen, (n_cells, n_genes), log-normalised.
    predicted, predicted_control
        Predicted mean profile, and that of the controls it started from, (n_genes,), on the same scale.
    n_top
        Number of most differentially expressed genes, by the absolute t statistic (unequal variances) of the measured
        cells; all genes if there are fewer.
    n_halves
        How often cells are halved for the ceiling; 0 leaves it out (NaN).
    rng
        Seed or generator of the halves.

    Returns
    -------
    ``rmse`` over all genes, ``rmse_nonzero`` over those that the perturbed cells express, ``rmse_top`` over the most
    differentially expressed; ``pearson_delta`` and ``pearson_delta_top``, the Pearson correlation of predicted and
    measured change over the same genes, NaN where one is constant, as that of "no change" is; ``ceiling``, the
    ``pearson_delta`` that a prediction without error would have, given the noise of so many cells:
    :math:`\sqrt{2r / (1 + r)}`, where :math:`r` is the correlation over all genes of the change of one half of the
    perturbed cells from one half of `controls` with that of the other halves, mean over halvings (the formula of
    Spearman and Brown). It is the same whatever is predicted. Near 0 these cells show no effect.

    Raises
    ------
    ValueError
        If genes do not match or repeat, values are missing, or cells, controls (four at least) or a number are too few.

    Examples
    --------
    >>> import numpy as np, scfoundry as sf
    >>> rng = np.random.default_rng(0)
    >>> control, effect = rng.gamma(1.0, size=50), np.r_[np.ones(5), np.zeros(45)]
    >>> cells = rng.normal(control + effect, 0.3, (40, 50))
    >>> controls, others = rng.normal(control, 0.3, (2, 40, 50))
    >>> scores = sf.metrics.perturbation(cells, controls, others.mean(0) + effect, others.mean(0))
    >>> bool(scores["pearson_delta"] > 0.9)
    True
    """
    if not isinstance(n_top, int | np.integer) or n_top < 1:
        msg = f"n_top must be a whole number of genes, at least 1; got {n_top}. The published choice: n_top=20."
        raise ValueError(msg)
    if not isinstance(n_halves, int | np.integer) or n_halves < 0:
        msg = f"n_halves must be a whole number, 0 or more; got {n_halves}. Enough for a steady mean: n_halves=10."
        raise ValueError(msg)
    cells, controls = in_memory(cells), in_memory(controls)
    genes = cells.columns if isinstance(cells, pd.DataFrame) else None
    n_genes = np.shape(cells)[-1] if np.ndim(cells) else 0
    datasets: dict[str, Cells] = {
        name: _two_dimensional(values, genes, n_genes, name=name)
        for name, values in {"cells": cells, "controls": controls}.items()
    }
    guess, start = (
        _profile(values, genes, n_genes, name=name)
        for name, values in {"predicted": predicted, "predicted_control": predicted_control}.items()
    )
    generator = np.random.default_rng(rng)
    halves = {name: _halves(np.shape(values)[0], n_halves, generator) for name, values in datasets.items()}
    measured, unperturbed = (_summary(values, halves[name], name=name) for name, values in datasets.items())

    error, expressed = guess - measured.mean, measured.mean > 0
    changes = np.stack([measured.mean - unperturbed.mean, guess - start])
    # Welch's t, 0 where a gene is constant in both and equal, huge where constant and different.
    t_statistic = changes[0] / np.sqrt(measured.error + unperturbed.error + np.finfo(np.float64).tiny)
    top = np.argsort(-np.abs(t_statistic), kind="stable")[:n_top]
    of_halves = measured.halves - unperturbed.halves
    return pd.Series(
        {
            "rmse": _root_mean_square(error),
            "rmse_nonzero": _root_mean_square(error[expressed]),
            "rmse_top": _root_mean_square(error[top]),
            "pearson_delta": float(pearson(*changes)),
            "pearson_delta_top": float(pearson(*changes[:, top])),
            "ceiling": float(attainable(pearson(*of_halves, axis=1).mean())) if n_halves else np.nan,
        }
    )


def _two_dimensional(values: Cells, genes: pd.Index | None, n_genes: int, *, name: str) -> Cells:
    if np.ndim(values) != 2 or np.shape(values)[0] < LEAST_CELLS:
        msg = (
            f"{name} has shape {np.shape(values)}, but must be cells x genes with at least {LEAST_CELLS} cells: "
            "a change is scored beside that of half of the cells. Pass all cells of the condition."
        )
        raise ValueError(msg)
    matched = _matched(values, genes, name)
    if np.shape(matched)[1] != n_genes:
        n_values = np.shape(matched)[1]
        msg = (
            f"{name} has {n_values} values per cell, but cells has {n_genes} genes; both need the same "
            "genes, in one order: select the columns that both have."
        )
        raise ValueError(msg)
    return matched


def _profile(values: ArrayLike | pd.Series, genes: pd.Index | None, n_genes: int, *, name: str) -> NDArray[np.float64]:
    profile = np.asarray(_matched(values, genes, name), dtype=np.float64)
    if profile.shape != (n_genes,):
        msg = (
            f"{name} has shape {profile.shape}, but must be one value for each of the {n_genes} genes of cells. "
            f"Of a matrix with one row take the row: {name}[0]."
        )
        raise ValueError(msg)
    if not np.isfinite(profile).all():
        msg = f"{name} holds missing or infinite values. Leave those genes out of all four arguments."
        raise ValueError(msg)
    return profile


def _matched(values: Any, genes: pd.Index | None, name: str) -> Any:
    """Values in the order of the genes, by name where there are names."""
    if genes is None or not isinstance(values, pd.Series | pd.DataFrame):
        return values
    return by_gene(values, genes, names=("cells", name))


class _Summary(NamedTuple):
    """What scores need of cells: mean, squared standard error, (n_genes,), means of halves, (2, n_halves, n_genes)."""

    mean: NDArray[np.float64]
    error: NDArray[np.float64]
    halves: NDArray[np.float64]


def _summary(cells: Cells, first_half: NDArray[np.bool_], *, name: str) -> _Summary:
    """Read cells in blocks, so that few of them are dense at once."""
    n, n_genes = np.shape(cells)
    halves = np.stack([first_half, ~first_half]).astype(np.float64)
    sums, squares, of_halves = np.zeros(n_genes), np.zeros(n_genes), np.zeros((*halves.shape[:2], n_genes))
    done = 0
    for (block,) in blocks(cells, axis=0):
        values = dense(block, name=name)
        sums += values.sum(0)
        of_halves += halves[:, :, done : done + len(values)] @ values
        done += len(values)
    mean = sums / n
    for (block,) in blocks(cells, axis=0):
        squares += ((dense(block, name=name) - mean) ** 2).sum(0)
    return _Summary(mean, squares / (n - 1) / n, of_halves / halves.sum(2)[:, :, None])


def _halves(n_cells: int, n_halves: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which cells are in the first half, (n_halves, n_cells)."""
    first = np.zeros((n_halves, n_cells), dtype=bool)
    for chosen in first:
        chosen[rng.permutation(n_cells)[: (n_cells + 1) // 2]] = True
    return first


def _root_mean_square(error: NDArray[np.float64]) -> float:
    return float(np.sqrt((error**2).mean())) if error.size else np.nan
