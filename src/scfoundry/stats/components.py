"""Principal components of a data set's own log expression, for any number of cells in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from scfoundry.data.matrix.log_normalisation import log_cp10k

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.matrix.reader import Reader

__all__ = ["LogMoments", "PrincipalAxes", "gathered", "principal_components"]

CELLS_PER_BLOCK = 4096
N_GENES = 2000
# Genes that hardly vary are not blown up, and single outliers do not make a component.
MIN_VARIANCE = 0.05
Z_RANGE = (-5.0, 8.0)
# Cells that a data set needs before its own moments count as much as those of all.
PRIOR_CELLS = 200
# What rounding leaves of the variance of a gene that does not vary.
ROUNDING = 1e-9


class LogMoments:
    """Mean and variance of every gene's log expression, and which cells have none, gathered block by block.

    Log expression is log1p of counts per 10,000 of the vocabulary's genes. Cells without counts are left out. Sums are
    in double precision, so that neither the order of cells nor the size of blocks shows in the result.
    """

    def __init__(self, n_genes: int) -> None:
        self._sum, self._squares = np.zeros(n_genes), np.zeros(n_genes)
        self._empty: list[NDArray[np.bool_]] = []

    def update(self, counts: sparse.csr_matrix) -> None:
        """Take in counts of the next cells, (n, G)."""
        block, empty = _log_expression(counts)
        self._sum += np.asarray(block.sum(0)).ravel()
        self._squares += np.asarray(block.multiply(block).sum(0)).ravel()
        self._empty.append(empty)

    @classmethod
    def pooled(cls, parts: Iterable[LogMoments]) -> LogMoments:
        """Moments of the cells of several data sets together."""
        first, *others = parts
        pooled = cls(len(first._sum))
        for part in (first, *others):
            pooled._sum += part._sum
            pooled._squares += part._squares
            pooled._empty += part._empty
        return pooled

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Cells without counts, (n_obs,)."""
        return np.concatenate([np.zeros(0, dtype=bool), *self._empty])

    @property
    def n_cells(self) -> int:
        """Cells with counts."""
        return int(np.count_nonzero(~self.empty))

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean, (G,)."""
        return self._sum / max(self.n_cells, 1)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance, (G,); exactly 0 for genes that do not vary."""
        variance = self._squares / max(self.n_cells, 1) - self.mean**2
        return np.where(variance > ROUNDING, variance, 0)


def gathered(reader: Reader) -> LogMoments:
    """Moments of all cells of a data set, in one pass."""
    moments = LogMoments(reader.n_vocabulary)
    for counts in _blocks(reader):
        moments.update(counts)
    return moments


def principal_components(
    reader: Reader, n_components: int = 30, *, moments: LogMoments | None = None
) -> NDArray[np.float64]:
    """Project cells on the main axes along which they differ.

    Counts per 10,000 of the vocabulary's genes, log, the 2,000 most variable genes, standardised. Three passes over the
    data, two if the moments are known; sums are in double precision, so that neither the order of cells nor the size of
    blocks shows in the result beyond rounding. Cells without counts have no place and no influence.

    Parameters
    ----------
    n_components
        Most components; fewer if there are fewer cells or genes.
    moments
        Moments of all cells of `reader`, if they were gathered before.

    Returns
    -------
    Scores, (n_obs, n_components), NaN for cells without counts. The sign of a component is that of its largest loading.
    No component is left if no gene varies.
    """
    moments = gathered(reader) if moments is None else moments
    return PrincipalAxes.of({reader: moments}, n_components).project(reader, moments)


@dataclass(frozen=True)
class PrincipalAxes:
    r"""The main axes along which the cells of one or more data sets differ; see `principal_components`.

    Genes are standardised by mean and variance of the data set of n cells a cell comes from, drawn towards those of all
    cells with a weight of :math:`200 / (n + 200)`: what sets whole data sets apart, such as their technology, makes no
    axis, and a few cells are seen among the others.

    Attributes
    ----------
    loadings
        Of the most variable genes, (g, k).
    spread
        Root mean squared length of these cells' scores.
    """

    _standardised: _Standardised
    loadings: NDArray[np.float64]
    spread: float

    @classmethod
    def of(cls, data: Mapping[Reader, LogMoments], n_components: int = 30) -> PrincipalAxes:
        """Axes of all cells of data sets that share a vocabulary, each with its moments."""
        together = LogMoments.pooled(data.values())
        standardised = _Standardised.of(together)
        n_genes = len(standardised.genes)
        k = min(n_components, n_genes, together.n_cells)
        if k == 0:
            return cls(standardised, np.empty((n_genes, 0)), 0.0)
        squares = np.zeros((n_genes, n_genes))
        for reader, moments in data.items():
            within = standardised.within(moments)
            for counts in _blocks(reader):
                z, empty = within(counts)
                squares += z[~empty].T @ z[~empty]
        lengths, loadings = linalg.eigh(squares, subset_by_index=(n_genes - k, n_genes - 1))
        loadings = loadings[:, ::-1]
        loadings *= np.sign(loadings[np.abs(loadings).argmax(0), np.arange(k)])
        return cls(standardised, loadings, float(np.sqrt(lengths.sum() / together.n_cells)))

    def project(self, reader: Reader, moments: LogMoments | None = None) -> NDArray[np.float64]:
        """Scores of the cells of a data set, (n_obs, k), NaN for cells without counts."""
        scores = np.empty((reader.n_obs, self.loadings.shape[1]))
        if not scores.size:
            return scores
        within = self._standardised.within(gathered(reader) if moments is None else moments)
        start = 0
        for counts in _blocks(reader):
            z, empty = within(counts)
            scores[start : start + len(z)] = np.where(empty[:, None], np.nan, z @ self.loadings)
            start += len(z)
        return scores

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` makes the same axes of."""
        known = {name: getattr(self._standardised, name) for name in ("genes", "mean", "variance")}
        return known | {"loadings": self.loadings, "spread": np.array(self.spread)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> PrincipalAxes:
        """Axes that were stored."""
        standardised = _Standardised(arrays["genes"], arrays["mean"], arrays["variance"])
        return cls(standardised, arrays["loadings"], float(arrays["spread"]))


@dataclass(frozen=True)
class _Standardised:
    """The most variable genes, standardised."""

    genes: NDArray[np.int64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    @classmethod
    def of(cls, moments: LogMoments) -> _Standardised:
        variance = moments.variance
        genes = np.sort(np.argsort(-variance, kind="stable")[: min(N_GENES, np.count_nonzero(variance))])
        return cls(genes, moments.mean[genes], variance[genes])

    def within(self, moments: LogMoments) -> _Standardised:
        """The same genes by the moments of one of the data sets, as far as it has cells to tell them."""
        weight = moments.n_cells / (moments.n_cells + PRIOR_CELLS)
        return replace(
            self,
            mean=weight * moments.mean[self.genes] + (1 - weight) * self.mean,
            variance=weight * moments.variance[self.genes] + (1 - weight) * self.variance,
        )

    def __call__(self, counts: sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Z-scores of cells, (n, number of variable genes), and which of the cells have no counts, (n,)."""
        block, empty = _log_expression(counts)
        z = (block[:, self.genes].toarray() - self.mean) / np.sqrt(self.variance + MIN_VARIANCE)
        return z.clip(*Z_RANGE), empty


def _blocks(reader: Reader) -> Iterator[sparse.csr_matrix]:
    return reader.blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK)


def _log_expression(counts: sparse.csr_matrix) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
    """Log expression, (n, G), and which cells have no counts, (n,)."""
    return log_cp10k(counts), np.asarray(counts.sum(1)).ravel() == 0
