"""A perturbed gene as the model's input: its value replaced after the log, in control cells (section 4.5).

The published value, -100, has no logarithm; it can only enter after it. A gene that the data do not measure enters in
the same way, through its pretrained vector.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from scfoundry._device import autocast
from scfoundry._settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model.cellplm._module import CellPLMModule
    from scfoundry.nn.counts import SparseCounts

__all__ = ["perturbed", "shifts_of"]


def perturbed(expression: SparseCounts, genes: Sequence[int], value: float) -> SparseCounts:
    """Log expression with the value of some genes replaced in every cell, measured or not.

    Parameters
    ----------
    expression
        Log expression of n cells, as `SparseCounts.log_normalised` gives it.
    genes
        Vocabulary positions.
    value
        What stands in for their log expression.
    """
    device = expression.values.device
    positions = torch.as_tensor(genes, dtype=torch.int64, device=device)
    n, k = expression.n_cells, len(positions)
    kept = ~torch.isin(expression.genes, positions)
    rows = torch.cat([expression.rows[kept], torch.arange(n, device=device).repeat_interleave(k)])
    order = torch.argsort(rows, stable=True)
    values = torch.cat([expression.values[kept], expression.values.new_full((n * k,), value)])
    indptr = torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=n).cumsum(0)])
    return replace(
        expression,
        indptr=indptr,
        genes=torch.cat([expression.genes[kept], positions.repeat(n)])[order],
        values=values[order],
    )


@torch.no_grad()
def shifts_of(
    module: CellPLMModule,
    expression: SparseCounts,
    positions: Mapping[str, int],
    value: float,
    *,
    device: torch.device,
    precision: Precision = "auto",
) -> dict[str, NDArray[np.float64]]:
    """Where the embedding of control cells moves, on average, when a gene is perturbed in all of them, (Z,) by gene.

    Parameters
    ----------
    module
        The model, in evaluation mode.
    expression
        Log expression of the control cells, one context.
    positions
        Vocabulary position by gene.
    value
        As in `perturbed`.
    device, precision
        Where and how to compute.
    """
    module.to(device).eval()
    cells = expression.to(device)
    bar = tqdm(positions.items(), desc="cellplm", unit="gene", disable=not settings.show_progress)
    with autocast(device, precision):
        start = module.latent.embedding(module.encode(cells)).float().mean(0)
        return {
            name: (module.latent.embedding(module.encode(perturbed(cells, [gene], value))).float().mean(0) - start)
            .cpu()
            .numpy()
            .astype(np.float64)
            for name, gene in bar
        }
