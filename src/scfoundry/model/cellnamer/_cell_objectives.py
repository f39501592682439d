"""Cells alone: what the networks of CellNamer learn without any label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scfoundry.nn.contrastive import contrastive_loss

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scfoundry.model.cellnamer._batches import Batch
    from scfoundry.model.cellnamer._module import CellNamerModule

__all__ = ["CellObjectives"]


class CellObjectives(nn.Module):
    """Losses of one batch: hidden genes, and a cell told apart from the others after another dropout.

    ``temperature``: of the cosine of two cells.
    """

    def __init__(self, module: CellNamerModule, *, temperature: float) -> None:
        super().__init__()
        self.module, self.temperature = module, temperature
        config, n_genes = module.config, len(module.scale.mean)
        # Only training guesses genes: these go when it is over.
        self.decoders = nn.ModuleList(nn.Linear(config.n_hidden, n_genes) for _ in range(config.n_members))

    def losses(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Every objective of one batch, the mean over networks."""
        return {"masked_genes": self.masked_genes(batch), "cell_cell": self.cell_cell(batch)}

    def masked_genes(self, batch: Batch) -> Tensor:
        """Squared error of measured genes that were hidden, others for every network."""
        errors = []
        for network, decoder in zip(self.module.cells.members, self.decoders, strict=True):
            chance = torch.rand(batch.z.shape, device=batch.z.device)
            hidden = (chance < self.module.config.mask_genes) & batch.measured
            guesses = decoder(network(batch.z.masked_fill(hidden, 0)))
            errors.append((guesses - batch.z)[hidden].square().mean())
        return torch.stack(errors).mean()

    def cell_cell(self, batch: Batch) -> Tensor:
        """Contrast of two passes."""
        cells = self.module.cells
        cell = torch.from_numpy(batch.cell).to(batch.z.device)
        others = cell[:, None] != cell
        pairs = zip(cells.embed(cells(batch.z)), cells.embed(cells(batch.z)), strict=True)
        return torch.stack([contrastive_loss(one, again, others, self.temperature) for one, again in pairs]).mean()
