"""Celler (Zhao et al. 2025), which is the gene language model of scGPT (Cui et al. 2024) with a classification head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from scfoundry.model._module import FoundationModule
from scfoundry.model.celler._domains import DomainNorm, reversed_gradient
from scfoundry.nn.transformer import TransformerLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scfoundry.model.celler._config import CellerConfig

__all__ = ["MASKED", "N_SPECIAL", "PADDED", "CellBatch", "CellerModule", "Predictions"]

# Values that are no bins: of hidden genes, and of padding.
MASKED, PADDED = -1, -2
# Tokens after those of the genes: <pad>, <cls> and <eoc>, which no computation reads.
N_SPECIAL = 3


class CellBatch(NamedTuple):
    """Cells that are computed together."""

    rows: Tensor  # (B,) their numbers
    genes: Tensor  # (B, L) tokens, <cls> first
    values: Tensor  # (B, L) bins, or one of the values that are none
    present: Tensor | None  # (B, L) which positions are real, `None` where all are
    batches: Tensor  # (B,) number of the batch; beyond the last one where it is not known

    def to(self, device: torch.device) -> CellBatch:
        """Move to a device."""
        rows, genes, values, present, batches = (None if part is None else part.to(device) for part in self)
        return CellBatch(rows, genes, values, present, batches)  # type: ignore[arg-type]  # present alone may be None


class Predictions(NamedTuple):
    """What the decoders say of a batch: bins (B, L), and logits that a gene is expressed at all."""

    values: Tensor
    nonzero: Tensor | None


class ValueEncoder(nn.Module):
    """Vectors of values."""

    def __init__(self, n_hidden: int, n_bins: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(1, n_hidden), nn.Linear(n_hidden, n_hidden)
        self.norm = nn.LayerNorm(n_hidden)
        self.n_bins = n_bins

    def forward(self, values: Tensor) -> Tensor:
        """``LN(W2 relu(W1 v + b1) + b2)``, whole numbers (B, L) to (B, L, D)."""
        # There are few values: each goes through the network once.
        each = torch.arange(PADDED, self.n_bins, device=values.device, dtype=self.linear1.weight.dtype)
        table = self.norm(self.linear2(self.linear1(each[:, None]).relu()))
        return F.embedding(values - PADDED, table)


def mlp(n_input: int, n_hidden: int) -> nn.Sequential:
    """One number per position."""
    hidden = [nn.Linear(n_input, n_hidden), nn.LeakyReLU(), nn.Linear(n_hidden, n_hidden), nn.LeakyReLU()]
    return nn.Sequential(*hidden, nn.Linear(n_hidden, 1))


class ValueDecoder(nn.Module):
    """Values from the states of positions (GEP)."""

    def __init__(self, n_input: int, n_hidden: int, *, explicit_zeros: bool) -> None:
        super().__init__()
        self.value = mlp(n_input, n_hidden)
        self.nonzero = mlp(n_input, n_hidden) if explicit_zeros else None

    def forward(self, states: Tensor) -> Predictions:
        """Bins, (B, L, D*) to (B, L)."""
        nonzero = None if self.nonzero is None else self.nonzero(states)[..., 0]
        return Predictions(self.value(states)[..., 0], nonzero)


class CellDecoder(nn.Module):
    """Values from the cell and the genes alone (GEPC), an inner product."""

    def __init__(self, n_cell: int, n_hidden: int, *, explicit_zeros: bool) -> None:
        super().__init__()
        self.query = nn.Linear(n_hidden, n_hidden)
        self.value = nn.Linear(n_hidden, n_cell, bias=False)
        self.nonzero = nn.Linear(n_hidden, n_cell) if explicit_zeros else None

    def forward(self, cells: Tensor, genes: Tensor) -> Predictions:
        """``(W sigmoid(W_q t + b_q)) . c``, cells (B, D*) and gene vectors (B, L, D) to (B, L)."""
        queries = self.query(genes).sigmoid()
        nonzero = None if self.nonzero is None else (self.nonzero(queries) @ cells[..., None])[..., 0]
        return Predictions((self.value(queries) @ cells[..., None])[..., 0], nonzero)


class ClassificationHead(nn.Module):
    """Classes of a cell from its ``<cls>`` state: linear, activation, normalisation, and again."""

    def __init__(self, n_hidden: int, n_classes: int, n_layers: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        blocks = ([nn.Linear(n_hidden, n_hidden), activation(), nn.LayerNorm(n_hidden)] for _ in range(n_layers - 1))
        self.hidden = nn.Sequential(*(layer for block in blocks for layer in block))
        self.output = nn.Linear(n_hidden, n_classes)

    def forward(self, cells: Tensor) -> Tensor:
        """Logits, (B, D) to (B, classes)."""
        return self.output(self.hidden(cells))


class CellerModule(FoundationModule):
    """A cell is the set of ``<cls>`` and its genes, each with its value; there are no positions.

    ``n_genes``: genes of the vocabulary.
    """

    lora_heads = ("decoder", "cell_decoder", "batches", "batch_norm", "discriminator", "classifier")

    def __init__(self, config: CellerConfig, n_genes: int) -> None:
        super().__init__()
        self.config, width = config, config.n_hidden
        self.genes = nn.Embedding(n_genes + N_SPECIAL, width)
        nn.init.uniform_(self.genes.weight, -0.1, 0.1)
        self.gene_norm = nn.LayerNorm(width)
        self.values = ValueEncoder(width, config.n_bins)
        self.dropout = nn.Dropout(config.dropout)
        self.layers: Any = nn.ModuleList(
            TransformerLayer(
                width,
                config.n_heads,
                config.n_intermediate,
                activation="relu",
                dropout=config.dropout,
                inner_dropout=config.dropout,
                eps=1e-5,
            )
            for _ in range(config.n_layers)
        )
        conditioned = bool(config.n_batches) and config.batch_tokens
        self.decoder = ValueDecoder(width * (1 + conditioned), width, explicit_zeros=config.explicit_zeros)
        if config.mvc:
            self.cell_decoder = CellDecoder(width * (1 + conditioned), width, explicit_zeros=config.explicit_zeros)
        if conditioned:
            self.batches, self.batch_norm = nn.Embedding(config.n_batches, width), nn.LayerNorm(width)
        if config.n_batches and config.domain_norm:
            self.domain_norm = DomainNorm(config.n_batches, width)
        if config.n_batches and config.discriminator:
            self.discriminator = ClassificationHead(width, config.n_batches, config.n_layers_cls, nn.LeakyReLU)
        if config.n_classes:
            self.classifier = ClassificationHead(width, config.n_classes, config.n_layers_cls)

    def gene_vectors(self, genes: Tensor) -> Tensor:
        """Vectors of gene tokens, without the cell, (..., D)."""
        return self.gene_norm(self.genes(genes))

    def gene_and_value(self, cells: CellBatch) -> Tensor:
        """Sum of the vectors of gene and value at every position, (B, L, D)."""
        return self.gene_vectors(cells.genes) + self.dropout(self.values(cells.values))

    def embed_inputs(self, cells: CellBatch) -> Tensor:
        """Gene and value of every position, normalised within its batch where the model does so, (B, L, D)."""
        x = self.gene_and_value(cells)
        if self.config.n_batches and self.config.domain_norm:
            x = self.domain_norm(x, cells.batches, cells.present)
        return x

    def forward(self, cells: CellBatch, *, n_wanted: int | None = None) -> Tensor:
        """States of the positions, (B, L, D), or of the first ``n_wanted`` of them alone."""
        x = self.embed_inputs(cells)
        *first, last = self.layers
        for layer in first:
            x = layer(x, cells.present)
        return last(x, cells.present, n_wanted)

    def cell_states(self, cells: CellBatch) -> Tensor:
        """State of ``<cls>``, which heads read, (B, D)."""
        return self(cells, n_wanted=1)[:, 0]

    def embed(self, parts: Sequence[CellBatch]) -> Tensor:
        """Embeddings of length 1, (n, D), of the n cells of all parts, in the order of their numbers."""
        # Of all parts together gradients would need the memory of all activations: they are computed again instead.
        again = self.training and torch.is_grad_enabled()
        states = [
            checkpoint(self.cell_states, part, use_reentrant=False) if again else self.cell_states(part)
            for part in parts
        ]
        rows = torch.cat([part.rows for part in parts])
        return F.normalize(torch.cat(states)[rows.argsort()], dim=-1)

    def predict_values(self, states: Tensor, cells: CellBatch) -> Predictions:
        """Values of all positions from their states (B, L, D)."""
        return self.decoder(self._with_batches(states, cells))

    def predict_from_cells(self, states: Tensor, cells: CellBatch) -> Predictions:
        """Values of all positions from the ``<cls>`` states (B, D) and the genes."""
        return self.cell_decoder(self._with_batches(states, cells), self.gene_vectors(cells.genes))

    def guess_batches(self, states: Tensor) -> Tensor:
        """Logits of the batches from ``<cls>`` states, (B, D) to (B, batches), whose gradients change their sign."""
        return self.discriminator(reversed_gradient(states))

    def _with_batches(self, states: Tensor, cells: CellBatch) -> Tensor:
        """States with the vector of the cell's batch behind each, (B, ..., 2D), where the model has such vectors."""
        if not (self.config.n_batches and self.config.batch_tokens):
            return states
        vectors = self.batch_norm(self.batches(cells.batches))
        return torch.cat([states, vectors.view(len(states), *[1] * (states.ndim - 2), -1).expand_as(states)], -1)
