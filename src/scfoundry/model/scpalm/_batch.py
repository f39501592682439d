"""Cells as scPaLM reads them: log expression, of which only what is not zero is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch

from scfoundry.data.matrix.log_normalisation import log_cp10k

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse
    from torch import Tensor

__all__ = ["Expression", "batches"]

# Cells whose tokens are computed at a time, by type of device.
CELLS_PER_BATCH = {"cpu": 16, "cuda": 512, "mps": 128}


class Expression(NamedTuple):
    """Log expression of B cells: of cell i ``values[offsets[i]:offsets[i + 1]]``, of the genes of the same places."""

    genes: Tensor  # (nnz,)
    values: Tensor  # (nnz,)
    offsets: Tensor  # (B + 1,)
    n_genes: int

    @classmethod
    def of(cls, log: sparse.csr_matrix, device: torch.device) -> Self:
        """Of log-normalised values, (B, G), none negative."""
        log.sort_indices()
        parts = log.indices.astype(np.int64), log.data.astype(np.float32), log.indptr.astype(np.int64)
        genes, values, offsets = (torch.from_numpy(part).to(device) for part in parts)
        return cls(genes, values, offsets, log.shape[1])

    @classmethod
    def of_counts(cls, counts: sparse.csr_matrix, device: torch.device) -> Self:
        """Of counts, (B, G): log1p of counts per 10,000."""
        log = log_cp10k(counts)
        log.eliminate_zeros()
        return cls.of(log, device)

    @property
    def n_cells(self) -> int:
        """B."""
        return len(self.offsets) - 1

    @property
    def n_expressed(self) -> Tensor:
        """Genes that each cell expresses, (B,)."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """Cell of every value, (nnz,)."""
        return torch.repeat_interleave(torch.arange(self.n_cells, device=self.offsets.device), self.n_expressed)

    def dense(self) -> Tensor:
        """Values of all genes, (B, G)."""
        dense = self.values.new_zeros(self.n_cells, self.n_genes)
        return dense.index_put((self.rows, self.genes), self.values)


def batches(
    counts: sparse.csr_matrix, device: torch.device, batch_size: int | None, *, normalised: bool = False
) -> Iterator[tuple[slice, Expression]]:
    """Cells of a block in their order, so many at a time, with their places in it; or of log expression."""
    size = batch_size or CELLS_PER_BATCH.get(device.type, CELLS_PER_BATCH["cpu"])
    for start in range(0, counts.shape[0], size):
        some = slice(start, min(start + size, counts.shape[0]))
        yield some, (Expression.of if normalised else Expression.of_counts)(counts[some], device)
