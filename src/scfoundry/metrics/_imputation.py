"""Scores of imputed genes (Wen et al. 2024, Table 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from scfoundry._arguments import quoted
from scfoundry.data.matrix.contexts import Context
from scfoundry.data.matrix.spatial_neighbors import neighbor_average
from scfoundry.metrics._matrices import align, blocks, dense, in_memory
from scfoundry.stats.similarity import cosine, partial_pearson, pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse
    from scipy.sparse import sparray, spmatrix

__all__ = ["imputation", "summarise"]

# Two rings around a spot on a hexagonal grid.
NEIGHBORS = 18
# The published constants of structural similarity, for values in [0, 1].
C1, C2 = 0.01**2, 0.03**2


def imputation(
    truth: np.ndarray | spmatrix | sparray | pd.DataFrame,
    predicted: np.ndarray | spmatrix | sparray | pd.DataFrame,
    *,
    log1p: bool = False,
    library: np.ndarray | pd.Series | None = None,
    positions: np.ndarray | None = None,
    sections: np.ndarray | pd.Series | None = None,
) -> pd.DataFrame:
    r"""Agreement of imputed with measured expression, gene by gene.

    For gene :math:`j` with measured values :math:`x_{ij}` and imputed values :math:`\hat x_{ij}` over all :math:`n`
    cells, zeros included,

    .. math::

        \text{mse}_j = \frac{1}{n}\sum_i (\hat x_{ij} - x_{ij})^2,\qquad \text{rmse}_j = \sqrt{\text{mse}_j},\qquad
        \text{mae}_j = \frac{1}{n}\sum_i |\hat x_{ij} - x_{ij}|,

    and Pearson correlation, Spearman correlation and cosine of the two columns. Predictions below 0 count as 0. CellPLM
    :cite:p:`wen2024cellplm` scores log1p of counts on both sides; its published RMSE averages square roots over all
    prefixes of the list of genes and is not reproduced here.

    A rich spot is rich in every gene, so that library size alone correlates with most genes: by Pearson correlation it
    beats most published methods. Given ``library``, ``partial_pearson`` is the correlation of what it does not explain:
    a polynomial of the fifth degree in log library size is removed from both sides. This is what an imputation adds.

    Given ``positions``, ``structure`` compares pictures instead of spots: around every spot i, over the k spots of its
    neighbourhood :math:`N_i` on both sides scaled to [0, 1], means, variances and the covariance give the structural
    similarity :cite:p:`wang2004ssim`

    .. math::

        \frac{(2 m_x m_{\hat x} + c_1)(2 s_{x\hat x} + c_2)}{(m_x^2 + m_{\hat x}^2 + c_1)(s_x^2 + s_{\hat x}^2 + c_2)},
        \qquad c_1 = 0.01^2,\; c_2 = 0.03^2,

    whose mean over spots is reported: 1 for the same picture.

    Pearson is NaN for a gene that is ``constant`` in truth or prediction, cosine for one that is all zeros.
    :func:`summarise` leaves them out of its means and counts them.

    Parameters
    ----------
    truth
        Measured expression, (n_cells, n_genes), non-negative.
    predicted
        Imputed expression on the same scale, (n_cells, n_genes). Two data frames are matched by gene name, and genes
        that `truth` lacks are not scored.
    log1p
        Compare :math:`\log(1 + x)` instead of the values as given.
    library
        Counts per cell, (n_cells,): of the genes that were measured, not of those that are scored.
    positions, sections
        Coordinates of the cells, (n_cells, 2), and their sections or fields of view, whose borders no neighbourhood
        crosses.

    Returns
    -------
    One row per gene, indexed by gene name where there are some: ``pearson``, ``spearman``, ``cosine``, ``rmse``,
    ``mse``, ``mae``; ``partial_pearson`` if ``library`` is given, ``structure`` if ``positions`` are; ``constant``
    (bool).

    Raises
    ------
    ValueError
        If shapes, cells or genes do not match, values are missing, or `truth` holds negative values.

    Examples
    --------
    >>> import numpy as np, scfoundry as sf
    >>> truth = np.array([[0.0, 2.0], [1.0, 2.0], [3.0, 2.0]])
    >>> sf.metrics.imputation(truth, truth + 1).round(3)
       pearson  spearman  cosine  rmse  mse  mae  constant
    0      1.0       1.0   0.966   1.0  1.0  1.0     False
    1      NaN       NaN   1.000   1.0  1.0  1.0      True
    """
    truth, predicted = in_memory(truth), in_memory(predicted)
    predicted = align(truth, predicted, names=("truth", "predicted"))
    n_cells = np.shape(truth)[0]
    sizes = None if library is None else _per_cell(library, n_cells)
    around = None if positions is None else _neighborhoods(positions, sections, n_cells)
    parts = [
        _scores(dense(x, name="truth"), dense(y, name="predicted"), log1p=log1p, library=sizes, around=around)
        for x, y in blocks(truth, predicted, axis=1)
    ]
    if not parts or np.shape(truth)[0] == 0:
        msg = f"truth has shape {np.shape(truth)}: there is no gene or no cell to score. Pass cells x held-out genes."
        raise ValueError(msg)
    scores = pd.concat(parts, ignore_index=True)
    named = next((values for values in (truth, predicted) if isinstance(values, pd.DataFrame)), None)
    return scores if named is None else scores.set_index(named.columns)


def summarise(scores: pd.DataFrame) -> pd.Series:
    """Mean of every score over the genes for which it is defined.

    Parameters
    ----------
    scores
        One row per gene, as :func:`imputation` returns them.

    Returns
    -------
    The means, ``n_genes``, and ``n_constant``, the number of genes without a Pearson correlation.

    Raises
    ------
    ValueError
        If `scores` has no column ``constant``.
    """
    if "constant" not in scores.columns:
        msg = (
            f"scores has no column 'constant'; its columns: {quoted(scores.columns)}. "
            "Pass what sf.metrics.imputation(truth, predicted) returns."
        )
        raise ValueError(msg)
    means = scores.drop(columns="constant").mean()
    counts = {"n_genes": float(len(scores)), "n_constant": float(scores["constant"].sum())}
    return pd.concat([means, pd.Series(counts)])


def _per_cell(library: np.ndarray | pd.Series, n_cells: int) -> NDArray[np.float64]:
    sizes = np.asarray(library, dtype=np.float64)
    if sizes.shape != (n_cells,) or not np.isfinite(sizes).all():
        msg = (
            f"library has shape {sizes.shape}, but must be one finite number for each of the {n_cells} cells of truth: "
            "library=truth.sum(axis=1)."
        )
        raise ValueError(msg)
    return sizes


def _neighborhoods(positions: np.ndarray, sections: np.ndarray | pd.Series | None, n_cells: int) -> sparse.csr_matrix:
    """Average over the neighbourhood of every cell, within its section, (n, n)."""
    xy = np.asarray(positions, dtype=np.float32)
    if xy.shape != (n_cells, 2) or not np.isfinite(xy).all():
        msg = f'positions has shape {xy.shape}, but must be finite, ({n_cells}, 2): adata.obsm["spatial"][:, :2].'
        raise ValueError(msg)
    names = np.zeros(n_cells, dtype=int) if sections is None else np.asarray(sections)
    if len(names) != n_cells:
        msg = f"sections has {len(names)} values, but truth has {n_cells} cells. Pass one per cell, in their order."
        raise ValueError(msg)
    codes = pd.factorize(names)[0]
    groups = [Context(str(code), np.flatnonzero(codes == code)) for code in np.unique(codes)]
    at = {group.name: xy[group.rows] for group in groups}
    return neighbor_average(groups, at, n_cells, n_neighbors=NEIGHBORS)


def _structure(
    truth: NDArray[np.float64], predicted: NDArray[np.float64], around: sparse.csr_matrix
) -> NDArray[np.float64]:
    """Structural similarity of every gene, (n, g) to (g,)."""
    x, y = (v / np.maximum(v.max(0), 1e-12) for v in (truth, predicted))
    mean_x, mean_y = around @ x, around @ y
    var_x, var_y = (np.maximum(around @ (v * v) - m * m, 0) for v, m in ((x, mean_x), (y, mean_y)))
    covariance = around @ (x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * (2 * covariance + C2) / (var_x + var_y + C2)).mean(0)


def _scores(
    truth: NDArray[np.float64],
    predicted: NDArray[np.float64],
    *,
    log1p: bool,
    library: NDArray[np.float64] | None,
    around: sparse.csr_matrix | None,
) -> pd.DataFrame:
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
    further = {}
    if library is not None:
        further["partial_pearson"] = partial_pearson(truth, predicted, library)
    if around is not None:
        further["structure"] = _structure(truth, predicted, around)
    return pd.DataFrame(
        {
            "pearson": pearson(truth, predicted),
            "spearman": pearson(rankdata(truth, axis=0), rankdata(predicted, axis=0)),
            "cosine": cosine(truth, predicted),
            "rmse": np.sqrt(mse),
            "mse": mse,
            "mae": np.abs(error).mean(0),
            **further,
            "constant": (np.ptp(truth, axis=0) == 0) | (np.ptp(predicted, axis=0) == 0),
        }
    )
