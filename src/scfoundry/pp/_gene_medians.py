"""Median expression of genes over the cells that express them, the scale of rank encoding (Theodoris et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scfoundry._settings import logger
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.checks import require_counts
from scfoundry.data.matrix.loaders import locate, row_blocks
from scfoundry.data.matrix.row_blocks import default_block_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    Blocks = Callable[[], Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]]

__all__ = ["gene_medians"]

_CALLER = "sf.pp.gene_medians"

_MAX_CANDIDATES = 2**22
"""Values that are sorted in memory at the end: 64 MB with their genes."""

_BIN_BITS = 8
"""Each pass over the data divides what is left of a gene's range into 256 bins."""


def gene_medians(
    adata: AnnData, *, layer: str | None = None, target_sum: float = 1e4, genes: GeneVocabulary | None = None
) -> GeneVocabulary:
    r"""Median expression of every gene over the cells that express it.

    Counts :math:`c_{ij}` are scaled to `target_sum` per cell, and

    .. math:: m_j = \operatorname{median}_{i: c_{ij} > 0} \frac{c_{ij}}{\sum_k c_{ik}} \text{target\_sum}

    to the last bit as :func:`numpy.median` gives it. Memory does not grow with the number of cells: where more values
    than are sorted at once (4 million) remain, a pass over the data narrows the range that holds each median.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory, backed or dask. It is only read, several times where it is large.
    layer
        Layer holding the counts, ``X`` if `None`.
    target_sum
        Total per cell after scaling. It scales all medians alike and does not change ranks.
    genes
        Genes to take medians of, found by name. Totals are over all genes of `adata` even so. All genes of `adata`
        under their own names if `None`.

    Returns
    -------
    Vocabulary of the genes expressed in at least one cell, with their medians (in units of ``target_sum``), in the
    order of `genes` or of `adata`.

    Raises
    ------
    ValueError
        If the values are not raw counts or all zero, gene names repeat, too few of `genes` are measured, or
        `target_sum` is not positive.

    References
    ----------
    Theodoris C. V. et al. Transfer learning enables predictions in network biology. Nature 618, 616-624 (2023).

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> import scfoundry as sf
    >>> adata = AnnData(np.array([[1, 3, 0], [2, 0, 0], [6, 2, 0]]))
    >>> adata.var_names = ["CD3E", "GAPDH", "MS4A1"]
    >>> medians = sf.pp.gene_medians(adata, target_sum=1)
    >>> medians.ids, medians.medians
    (array(['CD3E', 'GAPDH'], dtype=object), array([0.75, 0.5 ]))
    >>> sf.pp.rank_encode(adata, genes=medians)
    """
    if not target_sum > 0:
        msg = f"target_sum must be positive; got {target_sum}. The published total: target_sum=1e4."
        raise ValueError(msg)
    if genes is None and not adata.var_names.is_unique:
        repeated = adata.var_names[adata.var_names.duplicated()].unique()
        msg = (
            f"{len(repeated)} gene names occur more than once, for example {repeated[0]!r}, so a median would not say "
            "whose it is. Make them unique: adata.var_names_make_unique()."
        )
        raise ValueError(msg)
    require_counts(adata, layer=layer, caller=_CALLER)
    vocabulary = GeneVocabulary(adata.var_names) if genes is None else genes
    alignment = None if genes is None else genes.align(adata)

    # Smaller ones than by default, because every value turns into floats and integers of 8 bytes here.
    block_size = max(1, default_block_size(locate(adata, layer)[0]) // 8)

    def blocks() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        for _, block in row_blocks(adata, layer=layer, block_size=block_size):
            totals = block.astype(np.float64) @ np.ones(adata.n_vars)
            counts = block if alignment is None else alignment.apply(block)
            scaled = counts.data / np.repeat(totals, np.diff(counts.indptr)) * target_sum
            expressed = scaled > 0
            # Bit patterns of positive floats, read as integers, are ordered as the floats are.
            yield counts.indices[expressed].astype(np.int64), scaled[expressed].view(np.int64)

    medians = _medians(blocks, len(vocabulary))
    expressed = np.isfinite(medians)
    if not expressed.any():
        msg = f"None of the {len(vocabulary):,} genes is expressed in any of the {adata.n_obs:,} cells. Add cells."
        raise ValueError(msg)
    logger.info(f"{_CALLER}: {expressed.sum():,} of {len(vocabulary):,} genes are expressed, {adata.n_obs:,} cells")
    kept = vocabulary.subset(expressed)
    symbols = None if genes is None else kept.symbols
    return GeneVocabulary(kept.ids, symbols, aliases=kept.aliases, species=kept.species, medians=medians[expressed])


@dataclass
class _Ranges:
    """For every gene, a range of bit patterns that holds its lower median."""

    n_values: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    below: NDArray[np.int64] = field(init=False)
    inside: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.below = np.zeros_like(self.n_values)
        self.inside = self.n_values.copy()

    @property
    def open(self) -> NDArray[np.bool_]:
        """Genes whose range holds more than one bit pattern."""
        return self.low < self.high

    def holds(self, genes: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which values lie in the range of their gene."""
        return (keys >= self.low[genes]) & (keys <= self.high[genes])

    def narrow(self, blocks: Blocks) -> None:
        """Divide every range into bins and keep the one with the median."""
        n_genes, n_bins = len(self.low), 1 << _BIN_BITS
        width = np.frexp((self.high - self.low).astype(np.float64))[1]
        shift = np.maximum(0, width - _BIN_BITS).astype(np.int64)
        histogram = np.zeros(n_genes * n_bins, dtype=np.int64)
        for genes, keys in blocks():
            inside = self.holds(genes, keys) & self.open[genes]
            genes, keys = genes[inside], keys[inside]
            bins = (keys - self.low[genes]) >> shift[genes]
            histogram += np.bincount(genes * n_bins + bins, minlength=len(histogram))
        upto = np.cumsum(histogram.reshape(n_genes, n_bins), axis=1)
        chosen = (upto <= self._rank_inside[:, None]).sum(axis=1)
        is_open = np.flatnonzero(self.open)
        chosen = chosen[is_open]
        before = np.where(chosen > 0, upto[is_open, np.maximum(chosen - 1, 0)], 0)
        self.below[is_open] += before
        self.inside[is_open] = upto[is_open, chosen] - before
        self.low[is_open] += chosen << shift[is_open]
        self.high[is_open] = np.minimum(self.high[is_open], self.low[is_open] + (1 << shift[is_open]) - 1)

    @property
    def _rank_inside(self) -> NDArray[np.int64]:
        """Rank of the lower median among the values in the range."""
        return (self.n_values - 1) // 2 - self.below


def _medians(blocks: Blocks, n_genes: int) -> NDArray[np.float64]:
    """Exact median of every gene from blocks of (genes, bit patterns) that can be read again; NaN without values."""
    n_values = np.zeros(n_genes, dtype=np.int64)
    low, high = np.full(n_genes, np.iinfo(np.int64).max), np.zeros(n_genes, dtype=np.int64)
    for genes, keys in blocks():
        n_values += np.bincount(genes, minlength=n_genes)
        np.minimum.at(low, genes, keys)
        np.maximum.at(high, genes, keys)
    low[n_values == 0] = 0
    ranges = _Ranges(n_values, low, high)
    while ranges.inside[ranges.open].sum() > _MAX_CANDIDATES:
        ranges.narrow(blocks)

    candidates: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    above = np.full(n_genes, np.iinfo(np.int64).max)
    for genes, keys in blocks():
        chosen = ranges.holds(genes, keys) & ranges.open[genes]
        candidates.append((genes[chosen], keys[chosen]))
        beyond = keys > ranges.high[genes]
        np.minimum.at(above, genes[beyond], keys[beyond])
    genes, keys = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
    keys = keys[np.lexsort((keys, genes))]
    return _middle(ranges, keys, above)


def _middle(ranges: _Ranges, candidates: NDArray[np.int64], above: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the two middle values, from the sorted values of all open ranges and the least value above each."""
    n_candidates = np.where(ranges.open, ranges.inside, 0)
    first = np.cumsum(n_candidates) - n_candidates
    middle = []
    for rank in ((ranges.n_values - 1) // 2, ranges.n_values // 2):
        place = rank - ranges.below
        inside = place < ranges.inside
        keys = np.where(inside, ranges.low, above)
        listed = inside & ranges.open
        keys[listed] = candidates[(first + place)[listed]]
        middle.append(keys.view(np.float64))
    return np.where(ranges.n_values > 0, (middle[0] + middle[1]) / 2, np.nan)
