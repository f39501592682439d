"""Attention between the cells of every context: the largest weights of each cell, and sums between groups."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.tasks.cell_attention.pairs import CellPairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import AttendsToCells
    from scfoundry.tasks.cell_attention.pairs import Scale

__all__ = ["CellAttention", "attend"]


@dataclass(frozen=True)
class CellAttention:
    """Attention between cells; rows are those that attend."""

    weights: sparse.csr_matrix  # the largest of every cell, (n_obs, n_obs)
    observed: NDArray[np.float64]  # sum of all weights between groups, (P, P)
    expected: NDArray[np.float64]  # the same if every cell spread its attention evenly over its context
    n_pairs: NDArray[np.int64]  # ordered pairs of cells within contexts, a cell with itself among them, (P, P)


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

    Groups are numbered by ``codes``, (n_obs,), -1 for none. Cells without counts stand in the context, as they do when
    embedding, but none of their weights is kept, and they are in no group. All is float32, whatever the precision:
    weights of a context differ by less than bfloat16 resolves. Raises `ValueError` if there is no such layer.
    """
    n_layers = model.n_layers
    if not -n_layers <= layer < n_layers:
        msg = (
            f"{model.provenance['weights']!r} has {n_layers} encoder layers, 0 to {n_layers - 1}; got "
            f"encoder_layer={layer}. The last one: encoder_layer=-1."
        )
        raise ValueError(msg)
    present, device = ~cells.empty, compute.device
    observed, expected = np.zeros((2, n_codes, n_codes))
    n_pairs = np.zeros((n_codes, n_codes), dtype=np.int64)
    kept: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]] = []
    bar = tqdm(desc="cell attention", total=cells.n_obs, unit="cell", disable=not settings.show_progress)
    with bar, torch.no_grad(), torch.autocast(device.type, enabled=False):
        for rows, factors in model.attention_factors(cells, layer, compute):
            with closing(CellPairs(factors, len(rows), scale=scale, device=device)) as pairs:
                group = np.where(present[rows], codes[rows], -1)
                size = np.bincount(group[group >= 0], minlength=n_codes)
                between, given = pairs.sums(group, n_codes)
                observed += between
                expected += np.outer(given, size / len(rows))
                n_pairs += np.outer(size, size)
                for attending, attended, weights in pairs.largest(k, present[rows]):
                    attending_rows = np.repeat(rows[attending], attended.shape[1])
                    kept.append((weights.ravel(), attending_rows, rows[attended].ravel()))
                    bar.update(len(attending))
                bar.update(int(np.sum(~present[rows])))
    values, first, second = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    weights = sparse.csr_matrix((values, (first, second)), shape=(cells.n_obs, cells.n_obs))
    weights.sort_indices()
    return CellAttention(weights, observed, expected, n_pairs)
