"""Scores of denoised counts on entries that were hidden from the method (Wen et al. 2024, Table 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scfoundry.metrics._matrices import align, blocks, dense, in_memory
from scfoundry.stats.similarity import cosine, pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import sparray, spmatrix

__all__ = ["denoising"]


def denoising(
    counts: np.ndarray | spmatrix | sparray | pd.DataFrame,
    predicted: np.ndarray | spmatrix | sparray | pd.DataFrame,
    mask: np.ndarray | spmatrix | sparray | pd.DataFrame,
    *,
    given_detected: bool = False,
) -> pd.DataFrame:
    r"""Agreement of denoised with hidden counts, in log1p of counts per 10,000, beside that of constants.

    Truth and prediction are compared as

    .. math:: y_{ij} = \log\Bigl(1 + 10^4\, \frac{x_{ij}}{\sum_k x_{ik}}\Bigr),

    negative predictions counting as 0, with the totals of the complete cells. ``rmse``, ``mae``, ``pearson`` and
    ``cosine`` pool the hidden entries of all cells, as CellPLM reports them :cite:p:`wen2024cellplm`. The same names
    with ``_all`` cover the whole matrix, zeros included: errors over all entries, Pearson and cosine as means over
    cells where they are defined.

    The published protocol hides only counts above 0, and to know that an entry is not 0 is already much: a constant can
    beat a method that did not know. So every table has the scores of constants, which are fitted to the entries that
    were not hidden, and methods that can make use of that knowledge have a reading of their own (`given_detected`).

    Parameters
    ----------
    counts
        The complete raw counts, hidden entries included, (n_cells, n_genes); made dense in blocks of cells.
    predicted
        Denoised counts, (n_cells, n_genes), on any scale per cell: as in the published protocol, every cell is divided
        by its own total. Data frames are matched by gene name.
    mask
        True for entries hidden from the method, (n_cells, n_genes), bool.
    given_detected
        `predicted` are counts that are expected of genes known to be detected, as `sf.tl.denoise` gives with the same
        argument: divided by the totals of `counts`. The whole matrix is not scored.

    Returns
    -------
    ``rmse``, ``mae``, ``pearson`` and ``cosine`` over the hidden entries, then the same over the whole matrix. Rows:
    ``"predicted"``; ``"count of 1"``; ``"gene mean of non-zeros"``, the mean count of the gene in cells that express
    it; ``"gene mean"``, the mean share of the gene in a cell's counts.

    Raises
    ------
    ValueError
        If shapes, cells or genes do not match, values are missing, `counts` holds negative values, or `mask` is not
        bool, marks nothing, or marks only entries without counts.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.pp.simulate_dropout(adata, layer="counts")  # doctest: +SKIP
    >>> sf.tl.denoise(adata, layer="train")  # doctest: +SKIP
    >>> sf.metrics.denoising(  # doctest: +SKIP
    ...     adata.layers["counts"], adata.layers["denoised"], adata.layers["test_mask"]
    ... )
    """
    counts, predicted, mask = in_memory(counts), in_memory(predicted), in_memory(mask)
    predicted = align(counts, predicted, names=("counts", "predicted"))
    mask = _boolean(align(counts, mask, names=("counts", "mask")))
    constants = _constants(counts, mask)

    hidden, errors, similarities = [], [], []
    for x, x_hat, marked in blocks(counts, predicted, mask, axis=0):
        is_hidden = marked.toarray() if sparse.issparse(marked) else marked
        complete = dense(x, name="counts")
        if (complete < 0).any():
            msg = (
                f"counts holds negative values (lowest: {complete.min():.3g}); raw counts are expected. "
                'If they rest in a layer, pass adata.layers["counts"].'
            )
            raise ValueError(msg)
        totals = complete.sum(axis=1)
        guesses = np.maximum(dense(x_hat, name="predicted"), 0)
        scale = totals if given_detected else guesses.sum(axis=1)
        truth = _log_normalised(complete, totals)
        logged = [
            _log_normalised(guesses, scale),
            _log_normalised(np.ones_like(truth), totals),
            _log_normalised(np.broadcast_to(constants["gene mean of non-zeros"], truth.shape), totals),
            _log_normalised(np.broadcast_to(constants["gene mean"], truth.shape), np.where(totals > 0, 1, 0)),
        ]
        hidden.append(np.stack([values[is_hidden] for values in (truth, *logged)]))
        if not given_detected:
            differences = [truth - guess for guess in logged]
            errors.append([[(d**2).sum(), np.abs(d).sum()] for d in differences])
            similarities.append([[pearson(truth, guess, axis=1), cosine(truth, guess, axis=1)] for guess in logged])

    truth_hidden, *guesses_hidden = np.concatenate(hidden, axis=1)
    if not truth_hidden.any():
        msg = (
            f"All {truth_hidden.size:,} entries marked in mask have a count of 0, so there is nothing to recover. "
            'Pass the complete counts, not the matrix the method was given (layers["train"]).'
        )
        raise ValueError(msg)
    scores = pd.DataFrame([_pooled(truth_hidden, guess) for guess in guesses_hidden], index=["predicted", *constants])
    if given_detected:
        return scores
    squared, absolute = (np.sum(errors, axis=0) / np.prod(np.shape(counts))).T
    scores["rmse_all"], scores["mae_all"] = np.sqrt(squared), absolute
    for name, per_cell in zip(("pearson", "cosine"), np.concatenate(similarities, axis=2).swapaxes(0, 1), strict=True):
        # pandas' mean leaves out cells without counts, whose correlation is not defined.
        scores[f"{name}_all"] = pd.DataFrame(per_cell).mean(axis=1).to_numpy()
    return scores


def _pooled(truth: NDArray[np.float64], guess: NDArray[np.float64]) -> dict[str, float]:
    return {
        "rmse": float(np.sqrt(((truth - guess) ** 2).mean())),
        "mae": float(np.abs(truth - guess).mean()),
        "pearson": float(pearson(truth, guess)),
        "cosine": float(cosine(truth, guess)),
    }


def _constants(counts: Any, mask: Any) -> dict[str, NDArray[np.float64]]:
    """What needs no method, gene by gene, from the entries that were not hidden."""
    total, detected = (np.zeros(np.shape(counts)[1]) for _ in range(2))
    for x, marked in blocks(counts, mask, axis=0):
        is_hidden = marked.toarray() if sparse.issparse(marked) else marked
        seen = np.where(is_hidden, 0, dense(x, name="counts"))
        total += seen.sum(axis=0)
        detected += (seen > 0).sum(axis=0)
    return {
        "count of 1": np.ones_like(total),
        "gene mean of non-zeros": np.divide(total, detected, out=np.ones_like(total), where=detected > 0),
        "gene mean": total / max(total.sum(), 1e-300),
    }


def _boolean(mask: np.ndarray | spmatrix | sparray | pd.DataFrame) -> np.ndarray | spmatrix | sparray:
    values = mask if sparse.issparse(mask) else np.asarray(mask)
    if values.dtype != bool:
        msg = f"mask holds {values.dtype}, but must be bool, True where a count was hidden: mask = mask.astype(bool)."
        raise ValueError(msg)
    if not values.sum():
        msg = "mask marks no entry as hidden, so there is nothing to score. sf.pp.simulate_dropout(adata) makes one."
        raise ValueError(msg)
    return values


def _log_normalised(values: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log1p(values * np.divide(1e4, totals, out=np.zeros_like(totals, dtype=float), where=totals > 0)[:, None])
