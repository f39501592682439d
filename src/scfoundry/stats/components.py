"""Principal components of a data set's own log expression, for any number of cells in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.data.matrix.parts import over_parts

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
# Of the most that genes vary together, and of loadings: what is told apart, well above what order and blocks move.
DECIMALS = 8


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
    return LogMoments.pooled(over_parts(_gathered, reader))


def principal_components(
    reader: Reader, n_components: int = 30, *, moments: LogMoments | None = None
) -> NDArray[np.float64]:
    """Project cells on the main axes along which they differ, (n_obs, n_components), NaN for cells without counts.

    Counts per 10,000 of the vocabulary's genes, log, the 2,000 most variable genes, standardised. Three passes over the
    data, two if the moments are known; sums are in double precision, so that neither the order of cells nor the size of
    blocks shows in the result beyond rounding. Cells without counts have no place and no influence. There are fewer
    components if there are fewer cells or genes, and none if no gene varies; the sign of one is that of its largest
    loading.
    """
    moments = gathered(reader) if moments is None else moments
    return PrincipalAxes.of({reader: moments}, n_components).project(reader, moments)


@dataclass(frozen=True)
class PrincipalAxes:
    """The main axes along which the cells of one or more data sets differ; see `principal_components`.

    Genes are standardised by mean and variance of the data set of n cells a cell comes from, drawn towards those of all
    cells with a weight of :math:`200 / (n + 200)`: what sets whole data sets apart, such as their technology, makes no
    axis, and a few cells are seen among the others.
    """

    genes: NDArray[np.int64]  # the most variable ones, ascending, (g,)
    mean: NDArray[np.float64]  # over all cells, (g,)
    variance: NDArray[np.float64]  # over all cells, (g,)
    loadings: NDArray[np.float64]  # (g, k)
    spread: float  # root mean squared length of the scores of these cells

    @classmethod
    def of(
        cls, data: Mapping[Reader, LogMoments], n_components: int = 30, *, genes: NDArray[np.int64] | None = None
    ) -> PrincipalAxes:
        """Axes of all cells of data sets that share a vocabulary, each with its moments.

        ``genes``: vocabulary positions to find them by, ascending; the 2,000 of highest variance if `None`.
        """
        together = LogMoments.pooled(data.values())
        variance = together.variance
        if genes is None:
            genes = np.sort(np.argsort(-variance, kind="stable")[: min(N_GENES, np.count_nonzero(variance))])
        axes = cls(genes, together.mean[genes], variance[genes], np.empty((len(genes), 0)), 0.0)
        k = min(n_components, len(genes), together.n_cells)
        if k == 0:
            return axes
        squares = np.zeros((len(genes), len(genes)))
        for reader, moments in data.items():
            for part in over_parts(_products, reader, axes, axes.scale(moments)):
                squares += part
        # Rounded, so that axes of the same length, which rare genes of few cells have, turn the same way in any order.
        unit = 2.0 ** np.ceil(np.log2(squares.max(initial=1.0)))  # dividing by it rounds nothing
        squares = (squares / unit).round(DECIMALS) * unit
        lengths, loadings = linalg.eigh(squares, subset_by_index=(len(genes) - k, len(genes) - 1))
        loadings = loadings[:, ::-1]
        largest = np.abs(loadings).round(DECIMALS).argmax(0)  # of genes that are alike the first
        loadings *= np.sign(loadings[largest, np.arange(k)])
        return replace(axes, loadings=loadings, spread=float(np.sqrt(lengths.sum() / together.n_cells)))

    def scale(self, moments: LogMoments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and divisor of every gene that a data set is standardised by, (g,) each."""
        weight = moments.n_cells / (moments.n_cells + PRIOR_CELLS)
        variance = weight * moments.variance[self.genes] + (1 - weight) * self.variance
        return weight * moments.mean[self.genes] + (1 - weight) * self.mean, np.sqrt(variance + MIN_VARIANCE)

    def project(self, reader: Reader, moments: LogMoments | None = None) -> NDArray[np.float64]:
        """Scores of the cells of a data set, (n_obs, k), NaN for cells without counts."""
        if not self.loadings.size:
            return np.empty((reader.n_obs, 0))
        return self.project_by(reader, self.scale(gathered(reader) if moments is None else moments))

    def project_by(self, reader: Reader, scale: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Scores of cells standardised by the `scale` of a data set, (n_obs, k), NaN for cells without counts."""
        return np.concatenate([np.empty((0, self.loadings.shape[1])), *over_parts(_scores, reader, self, scale)])

    def standardised(
        self, reader: Reader, scale: tuple[NDArray[np.float64], NDArray[np.float64]]
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """Z-scores of blocks of cells, (n, g), and which of the cells have no counts, (n,)."""
        for counts in _blocks(reader):
            yield self.z_scores(counts, scale)

    def z_scores(
        self, counts: sparse.csr_matrix, scale: tuple[NDArray[np.float64], NDArray[np.float64]]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The same of a block, by a `scale` of all cells, (g,) each, or of every cell, (n, g)."""
        (log, empty), (mean, divisor) = _log_expression(counts), scale
        z = log[:, self.genes].toarray()
        z -= mean
        z /= divisor
        return z.clip(*Z_RANGE, out=z), empty

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` makes the same axes of."""
        return {name: np.asarray(values) for name, values in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> PrincipalAxes:
        """Axes that were stored."""
        axes = cls(**arrays)  # type: ignore[arg-type]
        return replace(axes, spread=float(axes.spread))


def _gathered(reader: Reader) -> LogMoments:
    moments = LogMoments(reader.n_vocabulary)
    for counts in _blocks(reader):
        moments.update(counts)
    return moments


def _products(
    reader: Reader, axes: PrincipalAxes, scale: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Sums over cells of products of two z-scores, (g, g)."""
    products = np.zeros((len(axes.genes), len(axes.genes)))
    for z, empty in axes.standardised(reader, scale):
        placed = z[~empty] if empty.any() else z
        products += placed.T @ placed  # of one array numpy computes half, as the other half is the same
    return products


def _scores(
    reader: Reader, axes: PrincipalAxes, scale: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    scores, start = np.empty((reader.n_obs, axes.loadings.shape[1])), 0
    for z, empty in axes.standardised(reader, scale):
        scores[start : start + len(z)] = np.where(empty[:, None], np.nan, z @ axes.loadings)
        start += len(z)
    return scores


def _blocks(reader: Reader) -> Iterator[sparse.csr_matrix]:
    return reader.blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK)


def _log_expression(counts: sparse.csr_matrix) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
    """Log expression, (n, G), and which cells have no counts, (n,)."""
    return log_cp10k(counts), np.asarray(counts.sum(1)).ravel() == 0
