"""From a cell's latent to expected counts, given the batch it came from (section 3.4 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.cellplm._config import CellPLMConfig

__all__ = ["Decoder"]

N_GROUPS = 4


class LabelTable(nn.Module):
    """One vector per batch (or dataset), with its own slope and normalisation."""

    def __init__(self, n_labels: int, n_hidden: int) -> None:
        super().__init__()
        self.table = nn.Embedding(n_labels, n_hidden)
        self.slope = nn.PReLU()
        self.norm = nn.GroupNorm(N_GROUPS, n_hidden)

    def forward(self, labels: Tensor | None) -> Tensor:
        """Vectors of the labels (n,), or of an unknown label: the sum of all rows, without gradient."""
        rows = self.table.weight.detach().sum(0, keepdim=True) if labels is None else self.table(labels)
        return self.norm(self.slope(rows))


class DecoderBlock(nn.Module):
    """Linear, PReLU, dropout, group norm."""

    def __init__(self, n_input: int, n_output: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(n_input, n_output)
        self.slope = nn.PReLU()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.GroupNorm(N_GROUPS, n_output)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in) to (n, out)."""
        return self.norm(self.dropout(self.slope(self.linear(x))))


class Decoder(nn.Module):
    """Negative binomial mean and dispersion of every gene, or its expected log expression (``likelihood="mse"``)."""

    def __init__(self, config: CellPLMConfig, n_genes: int) -> None:
        super().__init__()
        width, depth = config.n_decoder_hidden, config.n_decoder_layers - 1
        inputs = [config.n_latent, *[width] * (depth - 1)]
        self.blocks = nn.ModuleList(DecoderBlock(n, width, config.dropout) for n in inputs)
        sizes = {"batch": config.n_batches, "dataset": config.n_datasets}
        self.labels = nn.ModuleList(
            nn.ModuleDict({name: LabelTable(n, width) for name, n in sizes.items() if n}) for _ in inputs
        )
        self.bottleneck = nn.Linear(width, config.n_bottleneck)
        self.mean = nn.Linear(config.n_bottleneck, n_genes)
        self.log_dispersion = nn.init.normal_(nn.Parameter(torch.empty(n_genes)))
        self.likelihood = config.likelihood

    def forward(
        self,
        z: Tensor,
        *,
        batch: Tensor | None = None,
        dataset: Tensor | None = None,
        genes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode n cells.

        ``z``: latents, (n, Z). ``batch``, ``dataset``: labels, (n,); without them the cell is decoded for an unknown
        one. ``genes``: vocabulary positions to decode, (g,); all if `None`. Returns unscaled mean, (n, g), and
        dispersion, (g,).
        """
        labels = {"batch": batch, "dataset": dataset}
        x = z
        for block, tables in zip(self.blocks, self.labels, strict=True):
            x = block(x)
            for name, table in cast("nn.ModuleDict", tables).items():
                x = x + table(labels[name])
        t = self.bottleneck(x).relu()
        parameters = self.mean.weight, self.mean.bias, self.log_dispersion
        weight, bias, log_dispersion = parameters if genes is None else [p[genes] for p in parameters]
        mean = F.linear(t, weight, bias)
        if self.likelihood == "nb":
            mean = mean.exp().clamp(1e-5, 1e6)
        return mean, log_dispersion.exp().clamp(1e-4, 1e4)
