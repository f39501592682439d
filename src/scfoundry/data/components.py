"""Principal components of a data set's own log expression, for any number of cells in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.reader import CountsReader

__all__ = ["principal_components"]

CELLS_PER_BLOCK = 4096
TARGET_SUM = 1e4
N_GENES = 2000
# Genes that hardly vary are not blown up, and single outliers do not make a component.
MIN_VARIANCE = 0.05
Z_RANGE = (-5.0, 8.0)


def principal_components(reader: CountsReader, n_components: int = 30) -> NDArray[np.float64]:
    """Project cells on the main axes along which they differ.

    Counts per 10,000 of the vocabulary's genes, log, the 2,000 most variable genes, standardised. Three passes over the
    data; sums are in double precision, so that neither the order of cells nor the size of blocks shows in the result
    beyond rounding.

    Parameters
    ----------
    reader
        Checked and aligned data.
    n_components
        Most components; fewer if there are fewer cells or genes.

    Returns
    -------
    Scores, (n_obs, n_components). The sign of a component is that of its largest loading.
    """
    genes, mean, scale = _variable_genes(reader)
    covariance = np.zeros((len(genes), len(genes)))
    for block in _log_expression(reader):
        z = _standardised(block, genes, mean, scale)
        covariance += z.T @ z
    k = min(n_components, len(genes), reader.n_obs)
    _, axes = linalg.eigh(covariance, subset_by_index=(len(genes) - k, len(genes) - 1))
    axes = axes[:, ::-1]
    axes *= np.sign(axes[np.abs(axes).argmax(0), np.arange(k)])
    scores = [_standardised(block, genes, mean, scale) @ axes for block in _log_expression(reader)]
    return np.concatenate([np.empty((0, k)), *scores])


def _log_expression(reader: CountsReader) -> Iterator[sparse.csr_matrix]:
    """Blocks of log1p of counts per 10,000, read anew at every call."""
    for counts in reader.blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK):
        block = counts.astype(np.float64)
        totals = np.asarray(block.sum(1)).ravel()
        block.data = np.log1p(block.data * np.repeat(TARGET_SUM / np.maximum(totals, 1e-9), np.diff(block.indptr)))
        yield block


def _variable_genes(reader: CountsReader) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Positions of the most variable genes, their means, and the standard deviations to divide by."""
    blocks = _log_expression(reader)
    sums = [(np.asarray(x.sum(0)).ravel(), np.asarray(x.multiply(x).sum(0)).ravel()) for x in blocks]
    total, squares = np.sum(sums, axis=0)
    mean = total / max(reader.n_obs, 1)
    variance = np.maximum(squares / max(reader.n_obs, 1) - mean**2, 0)
    genes = np.sort(np.argsort(-variance, kind="stable")[: min(N_GENES, np.count_nonzero(variance))])
    return genes, mean[genes], np.sqrt(variance[genes] + MIN_VARIANCE)


def _standardised(
    block: sparse.csr_matrix, genes: NDArray[np.int64], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    return ((block[:, genes].toarray() - mean) / scale).clip(*Z_RANGE)
