"""Scores of denoised counts on entries that were hidden from the method (Wen et al. 2024, Table 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scfoundry.metrics._matrices import align, blocks, dense, in_memory
from scfoundry.metrics._similarity import cosine, pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import sparray, spmatrix

__all__ = ["denoising"]


def denoising(
    counts: np.ndarray | spmatrix | sparray | pd.DataFrame,
    predicted: np.ndarray | spmatrix | sparray | pd.DataFrame,
    mask: np.ndarray | spmatrix | sparray | pd.DataFrame,
) -> pd.Series:
    r"""Agreement of denoised with hidden counts, in log1p of counts per 10,000.

    Truth and prediction are compared as

    .. math:: y_{ij} = \log\Bigl(1 + 10^4\, \frac{x_{ij}}{\sum_k x_{ik}}\Bigr),

    negative predictions counting as 0, with the totals of the complete cells. ``rmse``, ``mae``, ``pearson`` and
    ``cosine`` pool the hidden entries of all cells, as CellPLM reports them. The same names with
    ``_all`` cover the whole matrix, zeros included: errors over all entries, Pearson and cosine as means over cells
    (cells where they are not defined left out).

    The published protocol hides only counts above 0, and being told that an entry is not 0 is already much: read the
    pooled scores beside those of a constant.

    Parameters
    ----------
    counts
        The complete raw counts, hidden entries included, shape ``(n_cells, n_genes)``. Sparse matrices are made dense
        one block of cells at a time.
    predicted
        Denoised counts on any scale per cell, shape ``(n_cells, n_genes)``. Data frames are matched by gene name.
    mask
        True for entries hidden from the method, shape ``(n_cells, n_genes)``, bool.

    Returns
    -------
    ``rmse``, ``mae``, ``pearson`` and ``cosine`` over the hidden entries, then the same over the whole matrix.

    Raises
    ------
    ValueError
        If shapes, cells or genes do not match, values are missing, `counts` holds negative values, or `mask` is not
        bool, marks nothing, or marks only entries without counts.

    References
    ----------
    Wen H. et al. CellPLM: Pre-training of Cell Language Model Beyond Single Cells. ICLR 2024.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.pp.simulate_dropout(adata, layer="counts")  # doctest: +SKIP
    >>> sf.metrics.denoising(  # doctest: +SKIP
    ...     adata.layers["counts"], adata.layers["denoised"], adata.layers["test_mask"]
    ... )
    """
    counts, predicted, mask = in_memory(counts), in_memory(predicted), in_memory(mask)
    predicted = align(counts, predicted, names=("counts", "predicted"))
    mask = _boolean(align(counts, mask, names=("counts", "mask")))

    hidden, errors, similarities = [], [], []
    for x, x_hat, is_hidden in blocks(counts, predicted, mask, axis=0):
        truth = _log_normalised(_non_negative(dense(x, name="counts")))
        guess = _log_normalised(np.maximum(dense(x_hat, name="predicted"), 0))
        here = is_hidden.toarray() if sparse.issparse(is_hidden) else is_hidden
        hidden.append(np.stack([truth[here], guess[here]]))
        errors.append([((truth - guess) ** 2).sum(), np.abs(truth - guess).sum()])
        similarities.append(np.stack([pearson(truth, guess, axis=1), cosine(truth, guess, axis=1)]))

    truth_hidden, guess_hidden = np.concatenate(hidden, axis=1)
    if not truth_hidden.any():
        msg = (
            f"All {truth_hidden.size:,} entries marked in mask have a count of 0, so there is nothing to recover. "
            'Pass the complete counts, not the matrix the method was given (layers["train"]).'
        )
        raise ValueError(msg)
    squared, absolute = np.sum(errors, axis=0) / np.prod(np.shape(counts))
    # pandas' mean leaves out cells without counts, whose correlation is not defined.
    per_cell = pd.DataFrame(np.concatenate(similarities, axis=1).T, columns=["pearson", "cosine"]).mean()
    return pd.Series(
        {
            "rmse": np.sqrt(((truth_hidden - guess_hidden) ** 2).mean()),
            "mae": np.abs(truth_hidden - guess_hidden).mean(),
            "pearson": float(pearson(truth_hidden, guess_hidden)),
            "cosine": float(cosine(truth_hidden, guess_hidden)),
            "rmse_all": np.sqrt(squared),
            "mae_all": absolute,
            "pearson_all": per_cell["pearson"],
            "cosine_all": per_cell["cosine"],
        }
    )


def _boolean(mask: np.ndarray | spmatrix | sparray | pd.DataFrame) -> np.ndarray | spmatrix | sparray:
    values = mask if sparse.issparse(mask) else np.asarray(mask)
    if values.dtype != bool:
        msg = f"mask holds {values.dtype}, but must be bool, True where a count was hidden: mask = mask.astype(bool)."
        raise ValueError(msg)
    if not values.sum():
        msg = "mask marks no entry as hidden, so there is nothing to score. sf.pp.simulate_dropout(adata) makes one."
        raise ValueError(msg)
    return values


def _non_negative(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    if (counts < 0).any():
        msg = (
            f"counts holds negative values (lowest: {counts.min():.3g}); raw counts are expected. "
            'If they rest in a layer, pass adata.layers["counts"].'
        )
        raise ValueError(msg)
    return counts


def _log_normalised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    totals = values.sum(axis=1, keepdims=True)
    return np.log1p(values * np.divide(1e4, totals, out=np.zeros_like(totals), where=totals > 0))
