"""Cells alone: what the networks of CellNamer learn without any label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scfoundry.nn.contrastive import contrastive_loss
from scfoundry.nn.divide_and_conquer import encode_in_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from scfoundry.model.cellnamer._batches import Batch
    from scfoundry.model.cellnamer._module import CellNamerModule

    Part = tuple[Tensor, Sequence[Tensor]]

__all__ = ["CellObjectives"]


class CellObjectives(nn.Module):
    """Losses of one batch: hidden genes, and a cell told apart from the others after another dropout.

    ``temperature``: of the cosine of two cells. ``part_size``: cells whose gradients are in memory at a time, all of a
    batch if `None`; it changes no gradient. The z-scores themselves are of the whole batch.
    """

    def __init__(self, module: CellNamerModule, *, temperature: float, part_size: int | None = None) -> None:
        super().__init__()
        self.module, self.temperature, self.part_size = module, temperature, part_size
        config, n_genes = module.config, len(module.scale.mean)
        # Only training guesses genes: these go when it is over.
        self.decoders = nn.ModuleList(nn.Linear(config.n_hidden, n_genes) for _ in range(config.n_members))

    def losses(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Every objective of one batch, the mean over networks."""
        return {"masked_genes": self.masked_genes(batch), "cell_cell": self.cell_cell(batch)}

    def masked_genes(self, batch: Batch) -> Tensor:
        """Squared error of measured genes that were hidden, others for every network."""
        shown = self.draw_genes(batch)
        share, networks = self.module.config.mask_genes, self.module.cells.members
        hidden = [(torch.rand(batch.z.shape, device=batch.z.device) < share) & batch.measured for _ in networks]
        size = self.part_size or len(batch.z)
        parts = [
            (z, shown, *of_networks)
            for z, *of_networks in zip(*(x.split(size) for x in (batch.z, *hidden)), strict=True)
        ]
        (errors,) = encode_in_parts(self.guess, parts, self.parameters())
        return (errors.sum(0) / torch.stack([of_network.sum() for of_network in hidden])).mean()

    def guess(self, part: tuple) -> tuple[Tensor]:
        """Squared errors of the genes hidden from each network, summed within some cells, (n, S)."""
        z, shown, *hidden = part
        networks = zip(self.module.cells.members, self.decoders, shown, hidden, strict=True)
        guesses = [
            (decoder(network(z.masked_fill(away, 0), genes)), away) for network, decoder, genes, away in networks
        ]
        return (torch.stack([((found - z) * away).square().sum(1) for found, away in guesses], 1),)

    def cell_cell(self, batch: Batch) -> Tensor:
        """Contrast of two passes."""
        cell = torch.from_numpy(batch.cell).to(batch.z.device)
        others = cell[:, None] != cell
        drawn = [self.draw_genes(batch) for _ in range(2)]
        parts = [(z, shown) for shown in drawn for z in batch.z.split(self.part_size or len(batch.z))]
        (embedded,) = encode_in_parts(self.embed, parts, self.parameters())
        pairs = zip(*(view.unbind(1) for view in embedded.chunk(2)), strict=True)
        return torch.stack([contrastive_loss(one, again, others, self.temperature) for one, again in pairs]).mean()

    def embed(self, part: Part) -> tuple[Tensor]:
        """Embeddings of some cells by each network, (n, S, D)."""
        cells = self.module.cells
        return (cells.embed(cells(*part)).transpose(0, 1),)

    def draw_genes(self, batch: Batch) -> list[Tensor]:
        """Genes that each network is shown of all cells of a batch, by which no part of it can be told from another."""
        return self.module.cells.draw_genes(batch.z)
