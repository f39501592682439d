"""Scores of imputed genes (Wen et al. 2024, Table 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry.metrics._matrices import align, blocks, dense, in_memory
from scfoundry.metrics._similarity import cosine, pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import sparray, spmatrix

__all__ = ["imputation", "summarise"]


def imputation(
    truth: np.ndarray | spmatrix | sparray | pd.DataFrame,
    predicted: np.ndarray | spmatrix | sparray | pd.DataFrame,
    *,
    log1p: bool = False,
) -> pd.DataFrame:
    r"""Agreement of imputed with measured expression, gene by gene.

    For gene :math:`j` with measured values :math:`x_{ij}` and imputed values :math:`\hat x_{ij}` over all :math:`n`
    cells, zeros included,

    .. math::

        \text{mse}_j = \frac{1}{n}\sum_i (\hat x_{ij} - x_{ij})^2,\qquad \text{rmse}_j = \sqrt{\text{mse}_j},\qquad
        \text{mae}_j = \frac{1}{n}\sum_i |\hat x_{ij} - x_{ij}|,

    and Pearson correlation and cosine of the two columns. Predictions below 0 count as 0. CellPLM
    scores log1p of counts on both sides; its published RMSE averages square roots over all prefixes of the list of
    genes and is not reproduced here: ``rmse`` is the plain value of every gene.

    Pearson is not defined for a gene that is constant in truth or prediction, nor cosine for one that is all zeros:
    these are NaN, and ``constant`` marks the former. :func:`summarise` leaves them out of its means and counts them.

    Parameters
    ----------
    truth
        Measured expression, shape ``(n_cells, n_genes)``, non-negative.
    predicted
        Imputed expression on the same scale, shape ``(n_cells, n_genes)``. If both are data frames, genes are matched
        by name and those that `truth` lacks are not scored.
    log1p
        Compare :math:`\log(1 + x)` instead of the values as given.

    Returns
    -------
    One row per gene, indexed by gene name where one side is a data frame: ``pearson``, ``cosine``, ``rmse``, ``mse``,
    ``mae`` and ``constant`` (bool).

    Raises
    ------
    ValueError
        If shapes, cells or genes do not match, or values are missing, or `truth` holds negative values.

    References
    ----------
    Wen H. et al. CellPLM: Pre-training of Cell Language Model Beyond Single Cells. ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> import scfoundry as sf
    >>> truth = np.array([[0.0, 2.0], [1.0, 2.0], [3.0, 2.0]])
    >>> sf.metrics.imputation(truth, truth + 1).round(3)
       pearson  cosine  rmse  mse  mae  constant
    0      1.0   0.966   1.0  1.0  1.0     False
    1      NaN   1.000   1.0  1.0  1.0      True
    """
    truth, predicted = in_memory(truth), in_memory(predicted)
    predicted = align(truth, predicted, names=("truth", "predicted"))
    parts = [
        _scores(dense(x, name="truth"), dense(y, name="predicted"), log1p=log1p)
        for x, y in blocks(truth, predicted, axis=1)
    ]
    if not parts or np.shape(truth)[0] == 0:
        msg = f"truth has shape {np.shape(truth)}: there is no gene or no cell to score. Pass cells x held-out genes."
        raise ValueError(msg)
    scores = pd.concat(parts, ignore_index=True)
    named = next((side for side in (truth, predicted) if isinstance(side, pd.DataFrame)), None)
    return scores if named is None else scores.set_index(named.columns)


def summarise(scores: pd.DataFrame) -> pd.Series:
    """Mean of every score over the genes for which it is defined.

    Parameters
    ----------
    scores
        One row per gene, as :func:`imputation` returns them.

    Returns
    -------
    The means, followed by ``n_genes`` and by ``n_constant``, the number of genes that are constant in truth or
    prediction and have no Pearson correlation.

    Raises
    ------
    ValueError
        If `scores` has no column ``constant``.

    Examples
    --------
    >>> import numpy as np
    >>> import scfoundry as sf
    >>> truth = np.array([[0.0, 2.0], [1.0, 2.0], [3.0, 2.0]])
    >>> sf.metrics.summarise(sf.metrics.imputation(truth, truth + 1)).round(3)
    pearson       1.000
    cosine        0.983
    rmse          1.000
    mse           1.000
    mae           1.000
    n_genes       2.000
    n_constant    1.000
    dtype: float64
    """
    if "constant" not in scores.columns:
        msg = (
            f"scores has no column 'constant'; its columns: {', '.join(map(repr, scores.columns))}. "
            "Pass what sf.metrics.imputation(truth, predicted) returns."
        )
        raise ValueError(msg)
    means = scores.drop(columns="constant").mean()
    counts = {"n_genes": float(len(scores)), "n_constant": float(scores["constant"].sum())}
    return pd.concat([means, pd.Series(counts)])


def _scores(truth: NDArray[np.float64], predicted: NDArray[np.float64], *, log1p: bool) -> pd.DataFrame:
    if (truth < 0).any():
        msg = (
            f"truth holds negative values (lowest: {truth.min():.3g}), but expression is at least 0: scaled data? "
            "Pass counts, with log1p=True, or log-normalised values."
        )
        raise ValueError(msg)
    predicted = np.maximum(predicted, 0)
    if log1p:
        truth, predicted = np.log1p(truth), np.log1p(predicted)
    error = predicted - truth
    mse = (error**2).mean(0)
    return pd.DataFrame(
        {
            "pearson": pearson(truth, predicted),
            "cosine": cosine(truth, predicted),
            "rmse": np.sqrt(mse),
            "mse": mse,
            "mae": np.abs(error).mean(0),
            "constant": (np.ptp(truth, axis=0) == 0) | (np.ptp(predicted, axis=0) == 0),
        }
    )
