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

from scfoundry._settings import settings
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model.cellplm._module import CellPLMModule

__all__ = ["embed_replaced", "expression_of", "replaced", "replaced_gene_shifts"]


def expression_of(module: CellPLMModule, cells: Cells, rows: NDArray[np.int64] | None = None) -> SparseCounts:
    """Log expression of some cells, all if `None`, on the device of the module."""
    counts = SparseCounts.from_csr(cells.read(rows)).to(module.device)
    return counts.log_normalised(module.config.library_size)


def replaced(expression: SparseCounts, genes: Sequence[int], value: float) -> SparseCounts:
    """Log expression with the value of some genes replaced in every cell, measured or not.

    ``expression``: log expression of n cells, as `SparseCounts.log_normalised` gives it. ``value``: what stands in for
    their log expression.
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


def embed_replaced(module: CellPLMModule, expression: SparseCounts, genes: Sequence[int], value: float) -> Tensor:
    """Embeddings of the cells of one context whose genes were replaced, (n, Z), with gradient."""
    return module.latent.embedding(module.encode(replaced(expression, genes, value)))


@torch.no_grad()
def replaced_gene_shifts(
    module: CellPLMModule, cells: Cells, genes: Mapping[str, int], value: float, compute: Compute
) -> dict[str, NDArray[np.float64]]:
    """Where the embedding of cells moves, on average, when a gene is replaced in all of them, (Z,) by name.

    ``value``: as in `replaced`.
    """
    module.to(compute.device).eval()
    expression = expression_of(module, cells)
    bar = tqdm(genes.items(), desc="cellplm", unit="gene", disable=not settings.show_progress)
    with compute.autocast():
        start = module.latent.embedding(module.encode(expression)).float().mean(0)
        return {
            name: (embed_replaced(module, expression, [gene], value).float().mean(0) - start)
            .cpu()
            .numpy()
            .astype(np.float64)
            for name, gene in bar
        }
