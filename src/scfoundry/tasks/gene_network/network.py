"""Attention between genes, averaged over the cells of every group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scfoundry.tasks.gene_network.ranks import rank_normalised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import AttendsToGenes

__all__ = ["GeneNetwork", "gene_network"]


@dataclass(frozen=True)
class GeneNetwork:
    """Attention between g genes in P groups of cells; rows are genes that attend, columns those attended to."""

    genes: NDArray[np.int64]  # vocabulary positions, ascending, (g,)
    weights: NDArray[np.float64]  # mean rank over the cells that have both genes, NaN where none has, (P, g, g)
    n_cells: NDArray[np.int32]  # cells that have both genes, (P, g, g)

    def strongest(self, k: int, *, min_cells: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows and columns of the k pairs of every group that weigh most, in that order; of equal ones the first.

        Only pairs that ``min_cells`` cells have. Weights are compared in single precision: what the order of summation
        leaves below plays no part.
        """
        found = []
        for weights, n_cells in zip(self.weights.astype(np.float32), self.n_cells, strict=True):
            rows, columns = np.nonzero((n_cells >= min_cells) & ~np.eye(len(self.genes), dtype=bool))
            order = np.argsort(-weights[rows, columns], kind="stable")[:k]
            found.append((rows[order], columns[order]))
        return found


def gene_network(
    model: AttendsToGenes,
    cells: Cells,
    genes: NDArray[np.int64],
    codes: NDArray[np.int64],
    n_codes: int,
    *,
    layer: int = -1,
    compute: Compute,
) -> GeneNetwork:
    """Average over cells how their genes attend to each other in a layer, by ranks (`rank_normalised`).

    Every cell of a group counts, for the pairs of ``genes`` that the model read of it; ranks are among these genes.
    Groups are numbered by ``codes``, (n_obs,), -1 for none. Memory is that of the result, 12 bytes per group and pair,
    and of the logits of one cell. Cells are read one by one and in float32, whatever ``compute`` says: ranks turn the
    rounding of another batch, or of bfloat16, into steps. Raises `ValueError` if there is no such layer.
    """
    n_layers, n_genes = model.n_layers, len(genes)
    if not -n_layers <= layer < n_layers:
        msg = (
            f"{model.provenance['weights']!r} has {n_layers} layers, 0 to {n_layers - 1}; got encoder_layer={layer}. "
            "The last one: encoder_layer=-1."
        )
        raise ValueError(msg)
    alone, device = replace(compute, batch_size=1), compute.device
    place = np.full(len(model.genes) + 1, -1)  # the last is that of no gene
    place[genes] = np.arange(n_genes)
    total = np.zeros((n_codes, n_genes, n_genes))
    n_cells = np.zeros((n_codes, n_genes, n_genes), dtype=np.int32)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch in model.gene_attention(cells, [range(n_layers)[layer]], alone):
            for cell, code in enumerate(codes[batch.rows]):
                own = place[batch.genes[cell].cpu().numpy()]
                positions = np.flatnonzero(own >= 0)
                if code < 0 or len(positions) < 2:
                    continue
                at = torch.from_numpy(positions).to(device)
                logits = batch.queries[cell][:, at] @ batch.keys[cell][:, at].transpose(-1, -2)  # (H, n, n)
                pairs = np.ix_(own[positions], own[positions])
                total[code][pairs] += rank_normalised(logits).numpy()
                n_cells[code][pairs] += 1
    with np.errstate(invalid="ignore"):
        return GeneNetwork(genes, total / n_cells, n_cells)
