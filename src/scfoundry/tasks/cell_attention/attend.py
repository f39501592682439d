"""Attention between the cells of every context: the largest weights of each cell, and sums between groups."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.tasks.cell_attention.pairs import CellPairs, GroupTable, LargestWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import AttendsToCells
    from scfoundry.tasks.cell_attention.pairs import Scale

__all__ = ["CellAttention", "attend"]


@dataclass(frozen=True)
class CellAttention:
    """Attention between cells.

    Attributes
    ----------
    weights
        The largest of every cell, rows are the cells that attend, (n_obs, n_obs).
    observed
        Sum of all weights between groups, rows are the groups that attend, (P, P).
    expected
        The same if every cell spread its attention evenly over its context.
    n_pairs
        Ordered pairs of cells within contexts, (P, P).
    """

    weights: sparse.csr_matrix
    observed: NDArray[np.float64]
    expected: NDArray[np.float64]
    n_pairs: NDArray[np.int64]


def attend(
    model: AttendsToCells,
    cells: Cells,
    codes: NDArray[np.int64],
    n_codes: int,
    *,
    k: int,
    layer: int = -1,
    scale: Scale = "shares",
    compute: Compute,
) -> CellAttention:
    """Weights with which the cells of a context attend to each other, averaged over the heads of a layer.

    Cells without counts stand in the context, as they do when embedding, but none of their weights is kept, and they
    are in no group. All is float32, whatever the precision: weights of a context differ by less than bfloat16 resolves.

    Parameters
    ----------
    codes, n_codes
        Number of the group of every cell, (n_obs,), -1 for none; number of groups P.
    k
        Weights to keep per cell.
    scale
        Of the weights, see `CellPairs`.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    n_layers = model.n_layers
    if not -n_layers <= layer < n_layers:
        msg = (
            f"{model.provenance['weights']!r} has {n_layers} encoder layers, 0 to {n_layers - 1}; got "
            f"encoder_layer={layer}. The last one: encoder_layer=-1."
        )
        raise ValueError(msg)
    present, device = ~cells.empty, compute.device
    kept, table = LargestWeights(cells.n_obs), GroupTable(n_codes)
    bar = tqdm(desc="cell attention", total=cells.n_obs, unit="cell", disable=not settings.show_progress)
    with bar, torch.no_grad(), torch.autocast(device.type, enabled=False):
        for rows, factors in model.attention_factors(cells, layer, compute):
            with closing(CellPairs(factors, len(rows), scale=scale, device=device)) as pairs:
                table.add(pairs, np.where(present[rows], codes[rows], -1))
                for attending, attended, weights in pairs.largest(k, present[rows]):
                    kept.add(rows[attending], rows[attended], weights)
                    bar.update(len(attending))
                bar.update(int(np.sum(~present[rows])))
    return CellAttention(kept.matrix(), table.observed, table.expected, table.n_pairs)
