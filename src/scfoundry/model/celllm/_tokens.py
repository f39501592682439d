"""Cells as CellLM reads them: ``<cls>`` and genes with the whole part of their log expression, and padding counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from scfoundry._settings import logger, settings
from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.nn.sequences import TokenLists, rows_by_length

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry.data.matrix.reader import Reader
    from scfoundry.model.celllm._config import CellLMConfig, Truncation

__all__ = ["CLS", "N_TOKENS", "PAD", "CellBatch", "CellTokens", "TokenisedCells", "expression_tokens", "longest_kept"]

# Tokens of expression: the whole part of log1p of counts per 10,000, all above 5 as 5. Hidden values are those of
# padding, from which their gene tells them apart.
HIGHEST, CLS, PAD, N_TOKENS = 5, 6, 7, 8

# Positions per step: enough to keep the device busy, few enough for its memory (on a CPU, its caches).
TOKENS_PER_STEP = {"cpu": 2048, "mps": 16_384, "cuda": 131_072}
CELLS_PER_BLOCK = 4096


class CellBatch(NamedTuple):
    """Cells that are computed together."""

    rows: Tensor  # (B,) their numbers
    tokens: Tensor  # (B, L) expression, <cls> first
    genes: Tensor  # (B, L)
    present: Tensor  # (B, L) which positions are real
    weights: Tensor  # (B, L) how often each is there: once, or as often as its padding; 0 beyond

    def to(self, device: torch.device) -> CellBatch:
        """Move to a device."""
        return CellBatch(*(part.to(device) for part in self))


def expression_tokens(values: NDArray[np.floating]) -> NDArray[np.int32]:
    """Tokens of natural logarithms, log1p of counts per 10,000, all of them above 0."""
    return np.minimum(values, HIGHEST).astype(np.int32)


def longest_kept(values: sparse.csr_matrix, n: int, truncation: Truncation) -> sparse.csr_matrix:
    """At most n values of every row: the highest (of equal ones the first), or the first; in the order of columns."""
    lengths = np.diff(values.indptr)
    if lengths.max(initial=0) <= n:
        return values
    kept = np.ones(values.nnz, dtype=bool)
    for row in np.flatnonzero(lengths > n):
        here = slice(values.indptr[row], values.indptr[row + 1])
        own = values.data[here]
        order = np.argsort(-own, kind="stable") if truncation == "expression" else np.arange(len(own))
        kept[here][order[n:]] = False
    shorter = values.copy()
    shorter.data[~kept] = 0
    shorter.eliminate_zeros()
    return shorter


class TokenisedCells:
    """Tokens of n cells over G genes, given log expression, (n, G) without stored zeros."""

    def __init__(self, values: sparse.csr_matrix, config: CellLMConfig) -> None:
        n_genes = values.shape[1]
        self.config, self.pad_gene = config, n_genes + 1
        values = longest_kept(values, config.max_length - 1, config.truncation)
        indptr = values.indptr.astype(np.int64)
        self.genes = TokenLists(indptr, values.indices.astype(np.int32)).beginning_with(n_genes)
        self.tokens = TokenLists(indptr, expression_tokens(values.data)).beginning_with(CLS)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Positions of every cell, ``<cls>`` included."""
        return self.genes.lengths

    def batch(self, rows: NDArray[np.int64]) -> CellBatch:
        """Some cells, padded on the right; the first padding of a cell stands for all of it."""
        lengths = self.lengths[rows]
        missing = self.config.max_length - lengths if self.config.padding == "official" else np.zeros_like(lengths)
        n_columns = int((lengths + (missing > 0)).max(initial=0))
        columns = np.arange(n_columns)
        present = columns < lengths[:, None]
        weights = present + missing[:, None] * (columns == lengths[:, None])
        tokens, genes = np.full((2, len(rows), n_columns), [[[PAD]], [[self.pad_gene]]], dtype=np.int64)
        places = (self.genes.indptr[rows][:, None] + columns)[present]
        tokens[present], genes[present] = self.tokens.tokens[places], self.genes.tokens[places]
        arrays = (rows, tokens, genes, present, weights.astype(np.float32))
        return CellBatch(*map(torch.from_numpy, arrays))


class CellTokens:
    """Cells of a reader, tokenised when they are asked for."""

    def __init__(self, reader: Reader, config: CellLMConfig) -> None:
        self.reader, self.config = reader, config

    def tokenised(self, counts: sparse.csr_matrix) -> TokenisedCells:
        """Log expression over the genes of the vocabulary, of which the longest cells then lose some."""
        values = log_cp10k(counts)
        values.eliminate_zeros()
        values.sort_indices()
        return TokenisedCells(values, self.config)

    def lengths(self) -> NDArray[np.int64]:
        """Positions of every cell, ``<cls>`` included, (n_obs,)."""
        expressed = [np.diff(block.indptr) for block in self._blocks()]
        return np.minimum(np.concatenate([np.zeros(0, dtype=np.int64), *expressed]) + 1, self.config.max_length)

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> CellBatch:
        """Some cells by their row numbers."""
        cells = self.tokenised(self.reader.read(rows)).batch(np.arange(len(rows)))
        return cells._replace(rows=torch.from_numpy(rows)).to(device)

    def parts(self, rows: NDArray[np.int64], device: torch.device, size: int | None = None) -> list[CellBatch]:
        """The same in mini-batches of similar length, which together hold all of them; ``size``: cells in each."""
        return [part.to(device) for part in self._cut(self.reader.read(rows), device, size, rows)]

    def stream(self, device: torch.device, batch_size: int | None = None) -> Iterator[CellBatch]:
        """All cells, in an order that wastes no padding; ``batch_size``: cells per batch instead of positions."""
        n_cut = 0
        with tqdm(desc="celllm", total=self.reader.n_obs, unit="cell", disable=not settings.show_progress) as bar:
            start = 0
            for counts in self._blocks():
                rows = np.arange(start, start + counts.shape[0])
                n_cut += int((np.diff(counts.indptr) >= self.config.max_length).sum())
                for batch in self._cut(counts, device, batch_size, rows):
                    yield batch.to(device)
                    bar.update(len(batch.rows))
                start += counts.shape[0]
        if n_cut:
            kept = "the highest" if self.config.truncation == "expression" else "the first of the vocabulary"
            logger.warning(
                f"{n_cut:,} of {self.reader.n_obs:,} cells express {self.config.max_length:,} genes or more, of which "
                f"the model reads {kept} {self.config.max_length - 1:,}. To read them all, load it with "
                f"max_length={self.reader.n_vocabulary + 1}."
            )

    def _cut(
        self, counts: sparse.csr_matrix, device: torch.device, size: int | None, rows: NDArray[np.int64]
    ) -> Iterator[CellBatch]:
        """Batches of similar length, on the CPU; ``rows``: numbers of the cells."""
        cells = self.tokenised(counts)
        budget = TOKENS_PER_STEP.get(device.type, TOKENS_PER_STEP["cpu"])
        for some in rows_by_length(cells.lengths, tokens_per_step=budget, batch_size=size):
            yield cells.batch(some)._replace(rows=torch.from_numpy(rows[some]))

    def _blocks(self) -> Iterator[sparse.csr_matrix]:
        return self.reader.blocks(np.arange(self.reader.n_obs), CELLS_PER_BLOCK)
