"""CellPLM (Wen et al., ICLR 2024): cells are tokens, a tissue is a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from scfoundry.model._module import FoundationModule
from scfoundry.model.cellplm._attention import FlowAttention, Projection, attend
from scfoundry.model.cellplm._decoder import N_GROUPS, Decoder
from scfoundry.model.cellplm._latent import build_latent
from scfoundry.model.cellplm._positions import PositionCode
from scfoundry.nn.checkpointed import CheckpointedLayer

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.cellplm._attention import FlowContext
    from scfoundry.model.cellplm._config import CellPLMConfig
    from scfoundry.model.cellplm._samples import ContextBatch
    from scfoundry.nn.counts import SparseCounts

__all__ = ["CellPLMModule"]


class GeneEmbedder(nn.Module):
    """Expression-weighted sum of gene vectors, plus position, through a small network."""

    def __init__(self, config: CellPLMConfig, n_genes: int) -> None:
        super().__init__()
        width = config.n_hidden
        self.genes = nn.init.normal_(nn.Parameter(torch.empty(n_genes, width)), std=0.005)
        self.position = PositionCode(width)
        self.linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.GroupNorm(N_GROUPS, width)
        self.use_positions = config.positions == "sinusoid"

    def aggregate(self, expression: SparseCounts) -> Tensor:
        """Sum of gene vectors weighted by log expression, (n, D); nothing is made dense."""
        return F.embedding_bag(
            expression.genes,
            self.genes,
            expression.indptr,
            mode="sum",
            per_sample_weights=expression.values,
            include_last_offset=True,
        )

    def forward(self, expression: SparseCounts, coordinates: Tensor | None = None) -> Tensor:
        """Embed n cells, (n, D)."""
        e = self.aggregate(expression)
        if self.use_positions:
            e = e + self.position(coordinates)
        return self.norm(self.dropout(self.linear(e).relu()))


class EncoderLayer(CheckpointedLayer):
    """Pre-norm transformer layer whose tokens are the cells of a context."""

    def __init__(self, config: CellPLMConfig) -> None:
        super().__init__()
        width = config.n_hidden
        self.norm1 = nn.LayerNorm(width)
        self.attention = FlowAttention(width, config.n_heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def project(self, h: Tensor, names: str = "qkv") -> Projection:
        """What these cells contribute to, and ask of, their context: the projections that are named."""
        return self.attention.project(self.norm1(h), names)

    def update(self, h: Tensor, q: Tensor, context: FlowContext) -> Tensor:
        """New states of n cells given the sums over their context, (n, D), written over the old ones."""
        h += self.dropout(self.attention.output(attend(q, context)))
        h += self.feed_forward(h)
        return h

    def feed_forward(self, h: Tensor) -> Tensor:
        """What the network on each cell adds to it, (n, D)."""
        return self.dropout(self.contract(self.dropout(F.gelu(self.expand(self.norm2(h))))))

    def forward(self, h: Tensor) -> Tensor:
        """Update a whole context of n cells, (n, D)."""
        h = h + self.dropout(self.attention(self.norm1(h)))
        return h + self.feed_forward(h)


class CellPLMModule(FoundationModule):
    """The published computation: embedder, encoder over cells, latent, decoder."""

    lora_heads = ("latent", "decoder")

    def __init__(self, config: CellPLMConfig, n_genes: int) -> None:
        super().__init__()
        self.config = config
        self.embedder = GeneEmbedder(config, n_genes)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.n_hidden)
        self.latent: Any = build_latent(config)
        self.decoder = Decoder(config, n_genes)

    def encode(self, expression: SparseCounts, coordinates: Tensor | None = None) -> Tensor:
        """Encode a whole context at once.

        ``expression``: log expression of n cells, as `SparseCounts.log_normalised` gives it. ``coordinates``: x and y
        in [0, 1], (n, 2). Returns normalised encoder states u, (n, D): the input of the latent.
        """
        h = self.embedder(expression, coordinates)
        for layer in self.layers:
            h = layer(h)
        return self.norm(h)

    def embed(self, batch: ContextBatch) -> Tensor:
        """Cell embeddings of one context, (n, Z), with gradient."""
        return self(batch.counts, batch.coordinates)

    def forward(self, counts: SparseCounts, coordinates: Tensor | None = None) -> Tensor:
        """Cell embeddings of one context, (n, Z)."""
        expression = counts.log_normalised(self.config.library_size)
        return self.latent.embedding(self.encode(expression, coordinates))
