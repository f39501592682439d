"""Cells as Celler reads them: ``<cls>`` and genes with the bins of their values, in batches with next to no padding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.data.matrix.reader import CountsInMemory
from scfoundry.data.tokens.bins import BinnedGenes, bin_values, truncated
from scfoundry.model.celler._module import PADDED, CellBatch
from scfoundry.nn.sequences import TokenLists, rows_by_length
from scfoundry.stats.variable_genes import variable_genes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.reader import Reader
    from scfoundry.model.celler._config import CellerConfig

__all__ = ["CellTokens", "TokenisedCells"]

# Positions per step: enough to keep the device busy, few enough for its memory (on a CPU, its caches).
TOKENS_PER_STEP = {"cpu": 1024, "mps": 16_384, "cuda": 65_536}
# Cells that are binned and sorted by length together; fewer where all measured genes are read.
CELLS_PER_BLOCK, CELLS_PER_DENSE_BLOCK = 4096, 256


class TokenisedCells:
    """Tokens and values of n cells, ``<cls>`` first."""

    def __init__(self, cells: BinnedGenes, n_genes: int, cls_value: int) -> None:
        self.pad = n_genes
        self.genes = TokenLists(cells.indptr, cells.genes).beginning_with(n_genes + 1)
        self.values = TokenLists(cells.indptr, cells.bins.astype(np.int32)).beginning_with(cls_value)

    def batch(self, rows: NDArray[np.int64], batches: NDArray[np.int64] | None = None) -> CellBatch:
        """Some cells, padded on the right; ``batches``: numbers of the batches of all cells here, (n,)."""
        genes, present = self.genes.padded(rows, self.pad)
        values, _ = self.values.padded(rows, PADDED)
        numbers = torch.zeros(len(rows), dtype=torch.int64) if batches is None else torch.from_numpy(batches[rows])
        return CellBatch(torch.from_numpy(rows), genes, values, present, numbers)


class CellTokens:
    """Cells of a reader, tokenised when they are asked for.

    ``keys``: of the genes (`gene_keys`). ``variable``: which genes to keep first, for ``truncation="hvg"``.
    ``batches``: number of the batch of every cell, (n_obs,).
    """

    def __init__(
        self,
        reader: Reader,
        keys: NDArray[np.uint64],
        config: CellerConfig,
        *,
        variable: NDArray[np.int64] | None = None,
        batches: NDArray[np.int64] | None = None,
    ) -> None:
        self.reader, self.keys, self.config = reader, keys, config
        self.variable, self.batches = variable, batches

    @classmethod
    def of(
        cls,
        cells: Cells,
        keys: NDArray[np.uint64],
        config: CellerConfig,
        variable: NDArray[np.int64] | None = None,
    ) -> CellTokens:
        """Cells of one AnnData, or some of them and the ``variable`` genes of all; contexts are their batches."""
        batches = None
        if config.truncation == "hvg" and variable is None:
            samples = [cells.take(context.rows).reader for context in cells.contexts]
            variable = variable_genes(samples, config.max_length - 1)
        if config.n_batches:
            numbers = {name: number for number, name in enumerate(config.batches)}
            batches = np.full(cells.n_obs, config.n_batches)
            for context in cells.contexts:
                batches[context.rows] = numbers.get(str(context.name), config.n_batches)
        return cls(cells.reader, keys, config, variable=variable, batches=batches)

    @classmethod
    def of_counts(cls, counts: sparse.csr_matrix, keys: NDArray[np.uint64], config: CellerConfig) -> CellTokens:
        """Cells of none of the batches, counts (n, G)."""
        reader = CountsInMemory(counts, np.unique(counts.indices).astype(np.int64))
        variable = variable_genes([reader], config.max_length - 1) if config.truncation == "hvg" else None
        batches = np.full(counts.shape[0], config.n_batches) if config.n_batches else None
        return cls(reader, keys, config, variable=variable, batches=batches)

    def tokenised(self, counts: sparse.csr_matrix) -> TokenisedCells:
        """Bins over all genes of a cell, of which the longest then lose some."""
        config = self.config
        bins = bin_values(counts, n_bins=config.n_bins, ties=config.ties, keys=self.keys)
        cells = BinnedGenes(counts.indptr.astype(np.int64), counts.indices, bins)
        if config.explicit_zeros:
            cells = with_zeros(cells, self.reader.measured)
        n_kept = config.max_length - 1
        cells = truncated(cells, n_kept, config.truncation, keys=self.keys, variable=self.variable)
        return TokenisedCells(cells, len(self.keys), config.cls_value)

    def lengths(self) -> NDArray[np.int64]:
        """Genes of every cell that are read, (n_obs,); 0 where it expresses none."""
        detected = [np.diff(block.indptr) for block in self._blocks()]
        expressed = np.concatenate([np.zeros(0, dtype=np.int64), *detected])
        read = len(self.reader.measured) * (expressed > 0) if self.config.explicit_zeros else expressed
        return np.minimum(read, self.config.max_length - 1)

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> CellBatch:
        """Some cells by their row numbers."""
        return self.parts(rows, device)[0]

    def parts(self, rows: NDArray[np.int64], device: torch.device, size: int | None = None) -> list[CellBatch]:
        """The same in mini-batches of at most so many cells, in order."""
        batches = None if self.batches is None else self.batches[rows]
        cells = self.tokenised(self.reader.read(rows))
        places = np.array_split(np.arange(len(rows)), math.ceil(len(rows) / (size or len(rows))))
        return [cells.batch(some, batches)._replace(rows=torch.from_numpy(rows[some])).to(device) for some in places]

    def stream(self, device: torch.device, batch_size: int | None = None) -> Iterator[CellBatch]:
        """All cells, in an order that wastes no padding; ``batch_size``: cells per batch instead of positions."""
        budget = TOKENS_PER_STEP.get(device.type, TOKENS_PER_STEP["cpu"])
        with tqdm(desc="celler", total=self.reader.n_obs, unit="cell", disable=not settings.show_progress) as bar:
            start = 0
            for counts in self._blocks():
                cells = self.tokenised(counts)
                here = None if self.batches is None else self.batches[start : start + counts.shape[0]]
                for rows in rows_by_length(cells.genes.lengths, tokens_per_step=budget, batch_size=batch_size):
                    batch = cells.batch(rows, here)
                    yield batch._replace(rows=batch.rows + start).to(device)
                    bar.update(len(rows))
                start += counts.shape[0]

    def _blocks(self) -> Iterator[sparse.csr_matrix]:
        size = CELLS_PER_DENSE_BLOCK if self.config.explicit_zeros else CELLS_PER_BLOCK
        return self.reader.blocks(np.arange(self.reader.n_obs), size)


def with_zeros(cells: BinnedGenes, measured: NDArray[np.int64]) -> BinnedGenes:
    """The same cells with bin 0 for genes that were measured and are not expressed; none for cells without genes."""
    n_cells = len(cells.indptr) - 1
    place = np.searchsorted(measured, cells.genes)
    bins = np.zeros((n_cells, len(measured)), dtype=np.uint16)
    bins[np.repeat(np.arange(n_cells), np.diff(cells.indptr)), place] = cells.bins
    some = np.diff(cells.indptr) > 0
    indptr = np.concatenate([[0], np.cumsum(some * len(measured))])
    genes = np.tile(measured.astype(np.int32), int(some.sum()))
    return BinnedGenes(indptr, genes, bins[some].ravel())
