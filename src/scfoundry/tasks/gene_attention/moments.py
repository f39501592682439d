"""Attention of cells to genes, summed over the cells of every group."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import AttendsFromCls

__all__ = ["Moments", "attention_moments"]


class Moments(NamedTuple):
    """Sums over the cells of P groups in which the model reads a gene, (P, G) each."""

    n_cells: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    def of_rest(self) -> Moments:
        """The same of all other groups together."""
        return Moments(*(values.sum(0) - values for values in self))

    def of_genes(self, genes: NDArray[np.int64]) -> Moments:
        """The same of some genes."""
        return Moments(self.n_cells[:, genes], self.total[:, genes], self.squares[:, genes])

    def mean(self, min_cells: int = 1) -> NDArray[np.float64]:
        """Means, NaN where less than ``min_cells`` cells were read."""
        enough = self.n_cells >= max(min_cells, 1)
        return np.divide(self.total, self.n_cells, out=np.full(self.total.shape, np.nan), where=enough)

    def deviation(self) -> NDArray[np.float64]:
        """Standard deviations between cells, NaN where less than two were read."""
        two = self.n_cells > 1
        above = np.maximum(self.squares - self.total * self.mean(), 0)
        return np.sqrt(np.divide(above, self.n_cells - 1, out=np.full(above.shape, np.nan), where=two))


def attention_moments(
    model: AttendsFromCls, cells: Cells, codes: NDArray[np.int64], n_codes: int, *, compute: Compute
) -> Moments:
    r"""Sum over the cells of every group, numbered by ``codes`` (n_obs,), -1 for none, what they attend to.

    Of a cell that has n genes, gene g has :math:`n a_g`, with :math:`a_g` its share of the attention of ``<cls>`` to
    genes: 1 if it gets as much as the mean gene of this cell, whatever their number. A gene that is not read has no
    attention in this cell, rather than 0, so that sums do not count in how many cells it is seen.

    Cells follow each other by name, in float32 whatever ``compute`` says: the order of the data plays no part. Memory
    is that of a batch and of the result, 24 bytes per group and gene.
    """
    rows = cells.by_name[codes[cells.by_name] >= 0]
    named, codes = cells.take(rows), codes[rows]
    shape = (n_codes, len(model.genes))
    sums = Moments(np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape))
    with torch.no_grad(), torch.autocast(compute.device.type, enabled=False):
        for batch in model.cls_attention(named, compute):
            genes, shares = batch.genes.cpu().numpy(), batch.shares.cpu().numpy().astype(np.float64)
            is_gene = genes >= 0
            relative = (shares * is_gene.sum(1, keepdims=True))[is_gene]
            at = np.broadcast_to(codes[batch.rows][:, None], genes.shape)[is_gene], genes[is_gene]
            for into, values in zip(sums, (1, relative, relative**2), strict=True):
                np.add.at(into, at, values)
    return sums
