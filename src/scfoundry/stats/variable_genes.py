"""Genes that vary more than others of their mean expression (Satija et al. 2015), within batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.data.matrix.parts import over_parts

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from scfoundry.data.matrix.reader import Reader

__all__ = ["variable_genes"]

CELLS_PER_BLOCK = 4096
N_GENES = 2000
N_BINS = 20
# What rounding leaves of the mean square of a gene that does not vary.
ROUNDING = 1e-9


def variable_genes(batches: Collection[Reader], n_genes: int = N_GENES) -> NDArray[np.int64]:
    """Vocabulary positions of the most variable genes, ascending; those that vary where there are fewer.

    Log dispersion (variance by mean of counts per 10,000), standardised among the genes of one of 20 bins of log mean.
    The variance is that within batches, pooled: what sets batches apart makes no gene variable. One pass; sums are in
    double precision. Cells without counts have no influence.
    """
    n_vocabulary = max((reader.n_vocabulary for reader in batches), default=0)
    n_cells, (total, squares, within) = 0, np.zeros((3, n_vocabulary))
    for reader in batches:
        n, (of_batch, squares_of_batch) = 0, np.zeros((2, n_vocabulary))
        for cells, *sums in over_parts(_sums, reader):
            n, of_batch, squares_of_batch = n + cells, of_batch + sums[0], squares_of_batch + sums[1]
        n_cells, total, squares = n_cells + n, total + of_batch, squares + squares_of_batch
        within = within + squares_of_batch - of_batch**2 / max(n, 1)
    varying = np.flatnonzero(within > ROUNDING * squares)
    if len(varying) <= n_genes:
        return varying
    dispersion = np.log(within[varying] / total[varying])
    mean = np.log1p(total[varying] / n_cells)
    position = (mean - mean.min()) / max(float(np.ptp(mean)), ROUNDING)
    bins = np.minimum((position * N_BINS).astype(np.int64), N_BINS - 1)
    standardised = np.ones(len(varying))  # also of a gene that has a bin for itself
    for number in np.unique(bins):
        own = dispersion[bins == number]
        if len(own) > 1:
            standardised[bins == number] = (own - own.mean()) / max(own.std(), ROUNDING)
    return np.sort(varying[np.argsort(-standardised, kind="stable")[:n_genes]])


def _sums(reader: Reader) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Cells with counts, and sums of counts per 10,000 and of their squares over them, (G,) each."""
    n, (total, squares) = 0, np.zeros((2, reader.n_vocabulary))
    for counts in reader.blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK):
        shares = log_cp10k(counts)
        shares.data = np.expm1(shares.data)
        n += int(np.count_nonzero(counts.sum(1)))
        total += np.asarray(shares.sum(0)).ravel()
        squares += np.asarray(shares.multiply(shares).sum(0)).ravel()
    return n, total, squares
