"""Non-zero medians of genes, exact and in bounded memory, the scale of rank encoding (Theodoris et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scfoundry._settings import logger
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.checks import require_counts
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.matrix.located import locate
from scfoundry.data.matrix.row_blocks import default_block_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

    Blocks = Callable[[], Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]]

__all__ = ["nonzero_medians"]

_MAX_CANDIDATES = 2**22
"""Values that are sorted in memory at the end: 64 MB with their genes."""

_BIN_BITS = 8
"""Each pass over the data divides what is left of a gene's range into 256 bins."""


def nonzero_medians(
    adata: AnnData,
    *,
    layer: str | None = None,
    caller: str,
    target_sum: float = 1e4,
    genes: GeneVocabulary | None = None,
) -> GeneVocabulary:
    """Vocabulary of the genes expressed in at least one cell, with their medians; see `sf.pp.gene_medians`."""
    require_counts(adata, layer=layer, caller=caller)
    vocabulary = GeneVocabulary(adata.var_names) if genes is None else genes
    alignment = None if genes is None else genes.align(adata)

    # Smaller ones than by default, because every value turns into floats and integers of 8 bytes here.
    block_size = max(1, default_block_size(locate(adata, layer)[0]) // 2)

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
    logger.info(f"{caller}: {expressed.sum():,} of {len(vocabulary):,} genes are expressed, {adata.n_obs:,} cells")
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
