"""Cells alone: what the networks of CellNamer learn without any label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scfoundry.nn.contrastive import contrastive_loss
from scfoundry.nn.divide_and_conquer import encode_in_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

    from scfoundry.model.cellnamer._batches import Batch
    from scfoundry.model.cellnamer._module import CellNamerModule

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
        cells, share = self.module.cells, self.module.config.mask_genes
        shown = cells.draw_genes(batch.z)
        hidden = [(torch.rand(batch.z.shape, device=batch.z.device) < share) & batch.measured for _ in cells.members]
        blocks = zip(*(x.split(self.part_size or len(batch.z)) for x in (batch.z, *hidden)), strict=True)
        errors = self.encoded(self.guess, [(z, shown, *of_networks) for z, *of_networks in blocks])
        return (errors.sum(0) / torch.stack([of_network.sum() for of_network in hidden])).mean()

    def guess(self, part: tuple) -> tuple[Tensor]:
        """Squared errors of the genes hidden from each network, summed within some cells, (n, S)."""
        z, shown, *hidden = part
        errors = []
        for network, decoder, genes, away in zip(self.module.cells.members, self.decoders, shown, hidden, strict=True):
            guesses = decoder(network(z.masked_fill(away, 0), genes))
            errors.append(((guesses - z) * away).square().sum(1))
        return (torch.stack(errors, 1),)

    def cell_cell(self, batch: Batch) -> Tensor:
        """Contrast of two passes, in each of which all cells of the batch show the same genes."""
        cell = torch.from_numpy(batch.cell).to(batch.z.device)
        others = cell[:, None] != cell
        drawn = [self.module.cells.draw_genes(batch.z) for _ in range(2)]
        blocks = batch.z.split(self.part_size or len(batch.z))
        embedded = self.encoded(self.embed, [(z, shown) for shown in drawn for z in blocks])
        pairs = zip(*(view.unbind(1) for view in embedded.chunk(2)), strict=True)
        return torch.stack([contrastive_loss(one, again, others, self.temperature) for one, again in pairs]).mean()

    def embed(self, part: tuple) -> tuple[Tensor]:
        """Embeddings of some cells by each network, (n, S, D)."""
        cells = self.module.cells
        return (cells.embed(cells(*part)).transpose(0, 1),)

    def encoded(self, encode: Callable[[tuple], tuple[Tensor]], parts: list[tuple]) -> Tensor:
        """Rows of all parts, which are divided only where a batch is to be."""
        if self.part_size is None:
            return torch.cat([encode(part)[0] for part in parts])
        return encode_in_parts(encode, parts, self.parameters())[0]
