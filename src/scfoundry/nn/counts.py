"""Counts of a group of cells as tensors, never dense."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from torch import Tensor

__all__ = ["LibrarySize", "SparseCounts"]

LibrarySize = Literal["none", "cp10k"]


@dataclass(frozen=True)
class SparseCounts:
    """CSR counts of n cells over the G genes of a vocabulary."""

    indptr: Tensor  # row pointers, (n + 1,) int64
    genes: Tensor  # vocabulary position of every stored entry, (nnz,) int64
    values: Tensor  # (nnz,) float32
    n_genes: int  # G

    @classmethod
    def from_csr(cls, counts: csr_matrix) -> SparseCounts:
        """Share the buffers of a SciPy CSR matrix where types allow."""
        return cls(
            indptr=torch.from_numpy(np.asarray(counts.indptr, dtype=np.int64)),
            genes=torch.from_numpy(np.asarray(counts.indices, dtype=np.int64)),
            values=torch.from_numpy(np.asarray(counts.data, dtype=np.float32)),
            n_genes=counts.shape[1],
        )

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.indptr) - 1

    @property
    def rows(self) -> Tensor:
        """Cell of every stored entry, (nnz,)."""
        lengths = self.indptr.diff()
        return torch.repeat_interleave(torch.arange(self.n_cells, device=self.indptr.device), lengths)

    def totals(self) -> Tensor:
        """Counts per cell, (n,)."""
        return self.values.new_zeros(self.n_cells).index_add_(0, self.rows, self.values)

    def log_normalised(self, library_size: LibrarySize = "none") -> SparseCounts:
        """log(1 + x), of the counts as they are or of counts per 10,000."""
        values = self.values
        if library_size == "cp10k":
            values = values * (1e4 / self.totals().clamp(min=1e-12))[self.rows]
        return replace(self, values=values.log1p())

    def without(self, hidden: Tensor) -> SparseCounts:
        """Set the entries marked in ``hidden`` (n, G) to zero, as if they had not been detected."""
        return replace(self, values=self.values.masked_fill(hidden[self.rows, self.genes], 0.0))

    def take(self, cells: Tensor) -> SparseCounts:
        """Select cells, in the given order."""
        starts, lengths = self.indptr[:-1][cells], self.indptr.diff()[cells]
        indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        within = torch.arange(int(indptr[-1]), device=indptr.device) - torch.repeat_interleave(indptr[:-1], lengths)
        entries = torch.repeat_interleave(starts, lengths) + within
        return SparseCounts(indptr, self.genes[entries], self.values[entries], self.n_genes)

    def to(self, device: torch.device | str) -> SparseCounts:
        """Move to a device."""
        return SparseCounts(self.indptr.to(device), self.genes.to(device), self.values.to(device), self.n_genes)
