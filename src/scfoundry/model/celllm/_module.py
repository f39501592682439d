"""CellLM (Zhao, Zhang and Nie 2023): a transformer over the expressed genes of a cell, whose attention is linear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from scfoundry.model._module import FoundationModule
from scfoundry.model.celllm._tokens import N_TOKENS
from scfoundry.nn.checkpointed import CheckpointedLayer
from scfoundry.nn.divide_and_conquer import encode_in_parts
from scfoundry.nn.favor import exact_attention, favor_attention, favor_weights, orthogonal_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scfoundry.model.celllm._config import CellLMConfig
    from scfoundry.model.celllm._tokens import CellBatch

__all__ = ["CellLMModule"]


class Layer(CheckpointedLayer):
    """Pre-norm: ``x <- x + part(LayerNorm(x))``, attention and then a network on each position."""

    lora_targets = ("query", "value")
    omega: Tensor

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.n_hidden, config.n_heads * config.n_head
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, width)
        self.expand, self.contract = nn.Linear(width, config.n_intermediate), nn.Linear(config.n_intermediate, width)
        self.dropout = nn.Dropout(config.dropout)
        # Rows of all heads; part of the weights, which are worth little with others.
        self.register_buffer("omega", torch.empty(config.n_features, config.n_head))
        if not self.omega.is_meta:
            self.draw_features()

    @torch.no_grad()
    def draw_features(self) -> None:
        """Draw the random features anew."""
        self.omega.copy_(orthogonal_features(*self.omega.shape))

    def project(self, x: Tensor, present: Tensor, n_wanted: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the first ``n_wanted`` positions, keys and values of all, (B, H, L, d); padding has no value."""
        h = self.attention_norm(x)
        queries, keys = self._heads(self.query(h[:, :n_wanted])), self._heads(self.key(h))
        return queries, keys, self._heads(self.value(h) * present[..., None])

    def attend(self, x: Tensor, cells: CellBatch, n_wanted: int | None = None) -> Tensor:
        """Positions inform each other, (B, L, D), or the first ``n_wanted`` of them only."""
        queries, keys, values = self.project(x, cells.present, n_wanted)
        if self.config.attention == "softmax":
            attended = exact_attention(queries, keys, values, cells.weights)
        else:
            # Padding has a weight and no value.
            attended = favor_attention(queries, keys, values, self.omega, cells.weights, self.config.stabiliser)
        attended = attended.transpose(1, 2).flatten(2).to(self.out.weight.dtype)
        return x[:, :n_wanted] + self.dropout(self.out(attended))

    def feed_forward(self, x: Tensor) -> Tensor:
        """The network on each position, (B, L, D)."""
        return x + self.contract(self.dropout(F.gelu(self.expand(self.norm(x)))))

    def forward(self, x: Tensor, cells: CellBatch, n_wanted: int | None = None) -> Tensor:
        """Attention and network, (B, L, D), of the first ``n_wanted`` positions, informed by all."""
        return self.feed_forward(self.attend(x, cells, n_wanted))

    def cls_weights(self, x: Tensor, cells: CellBatch) -> Tensor:
        """How ``<cls>`` attends to every position, (B, H, L); padding is counted as often as it is there."""
        queries, keys, _ = self.project(x, cells.present, 1)
        if self.config.attention == "softmax":
            scores = (queries.float() @ keys.float().mT) * self.config.n_head**-0.5
            return (scores + cells.weights.log()[:, None, None]).softmax(-1)[:, :, 0]
        return favor_weights(queries, keys, self.omega, cells.weights, self.config.stabiliser)[:, :, 0]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.config.n_heads, -1)).transpose(1, 2)


class ContrastiveHead(nn.Module):
    """One number per position, put where its gene stands in the vocabulary, and a linear layer over all genes."""

    def __init__(self, n_hidden: int, n_positions: int, n_output: int) -> None:
        super().__init__()
        self.scalar, self.linear = nn.Linear(n_hidden, 1), nn.Linear(n_positions, n_output)

    def scattered(self, states: Tensor, cells: CellBatch) -> Tensor:
        """Numbers on the axis of genes, ``<cls>`` last, (B, G + 1); 0 where a gene is not expressed."""
        numbers = self.scalar(states)[..., 0] * cells.present  # (B, L)
        # The gene of padding lies one beyond the axis.
        axis = numbers.new_zeros(len(numbers), self.linear.in_features + 1)
        return axis.scatter_add(1, cells.genes, numbers)[:, :-1]

    def forward(self, states: Tensor, cells: CellBatch) -> Tensor:
        """States (B, L, D) to representations (B, Z)."""
        return self.linear(self.scattered(states, cells))


class CellLMModule(FoundationModule):
    """A cell is the set of ``<cls>`` and its expressed genes, each with its level; there are no positions.

    ``n_genes``: genes of the vocabulary, G; the vectors of ``<cls>``, ones, and of padding, zeros, follow theirs.
    """

    lora_heads = ("level_head", "tumour_head", "contrast")
    steps_since_redraw: Tensor

    def __init__(self, config: CellLMConfig, n_genes: int) -> None:
        super().__init__()
        self.config, width = config, config.n_hidden
        self.levels = nn.Embedding(N_TOKENS, width)
        self.genes = nn.Embedding(n_genes + 2, width, padding_idx=n_genes + 1)
        with torch.no_grad():
            self.genes.weight[n_genes] = 1
        self.genes.weight.requires_grad_(not config.freeze_genes)
        self.dropout = nn.Dropout(config.dropout)
        self.layers: Any = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(width)
        self.level_head = nn.Linear(width, N_TOKENS)
        if config.tumour_head:
            self.tumour_head = nn.Linear(width, 2)
        if config.n_contrast:
            self.contrast = ContrastiveHead(width, n_genes + 1, config.n_contrast)
        self.register_buffer("steps_since_redraw", torch.zeros((), dtype=torch.int64))

    def embed_inputs(self, cells: CellBatch) -> Tensor:
        """Level and gene of every position, (B, L, D)."""
        return self.dropout(self.levels(cells.tokens) + self.genes(cells.genes))

    def forward(self, cells: CellBatch, *, n_wanted: int | None = None) -> Tensor:
        """States of the positions, (B, L, D), zero at padding, or of the first ``n_wanted`` of them alone."""
        x = self.embed_inputs(cells)
        *first, last = self.layers
        for layer in first:
            x = layer(x, cells)
        return self.norm(last(x, cells, n_wanted)) * cells.present[:, :n_wanted, None]

    def pool(self, cells: CellBatch) -> Tensor:
        """Embeddings of cells, (B, D) or (B, Z), as the configuration says."""
        if self.config.pooling == "cls":
            return self(cells, n_wanted=1)[:, 0]
        states = self(cells)
        if self.config.pooling == "contrast":
            return self.contrast(states, cells)
        # States of padding are zero; a cell without genes has the embedding zero.
        return states[:, 1:].sum(1) / (cells.present.sum(1, keepdim=True) - 1).clamp(min=1)

    def embed(self, parts: Sequence[CellBatch]) -> Tensor:
        """Embeddings, (n, D), of the n cells of all parts, in the order of their numbers; gradients part by part."""
        (embeddings,) = encode_in_parts(lambda part: (self.pool(part),), parts, self.parameters())
        return embeddings[torch.cat([part.rows for part in parts]).argsort()]

    def cls_attention(self, cells: CellBatch) -> Tensor:
        """How ``<cls>`` attends to every position in each layer, (B, layers, H, L)."""
        x, weights = self.embed_inputs(cells), []
        *first, last = self.layers
        for layer in first:
            weights.append(layer.cls_weights(x, cells))
            x = layer(x, cells)
        return torch.stack([*weights, last.cls_weights(x, cells)], 1)

    def level_logits(self, states: Tensor) -> Tensor:
        """Logits of the levels of positions, (..., D) to (..., tokens)."""
        return self.level_head(states)

    @torch.no_grad()
    def count_step(self) -> None:
        """Count an optimiser step; after so many of them, draw the random features of all layers anew."""
        self.steps_since_redraw += 1
        if self.config.redraw_interval and int(self.steps_since_redraw) >= self.config.redraw_interval:
            self.steps_since_redraw.zero_()
            for layer in self.layers:
                layer.draw_features()
