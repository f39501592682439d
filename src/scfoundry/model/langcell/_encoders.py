"""The transformers of LangCell (Zhao et al. 2024): one reads ranked genes, one reads words and may look at a cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scfoundry.nn.transformer import LAYER_NORM_EPS, KeysValues, TransformerLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from scfoundry.model.langcell._config import LangCellConfig

    Answer = KeysValues | Callable[[], KeysValues]

__all__ = ["CellEncoder", "TextEncoder"]


def initialise(encoder: nn.Module, width: int) -> None:
    """Draw weights as BERT does, and wider ones where the encoder is narrower than BERT."""
    # BERT's 0.02 suits its width of 768: a sum over so many inputs has about 0.5 of their size. Over few it would be
    # too small to be heard beside the residual path, and a narrow encoder would take hundreds of steps to begin.
    std = max(0.02, 0.5 / math.sqrt(width))
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class CellEncoder(nn.Module):
    """A cell is the sequence ``<cls>``, highest gene, second highest gene, ...

    ``n_tokens``: genes and special tokens.
    """

    def __init__(self, config: LangCellConfig, n_tokens: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, config.n_hidden)
        self.positions = nn.Embedding(config.max_length, config.n_hidden)
        # Released weights have two segments, of which every position belongs to the first.
        self.segments = nn.Embedding(2, config.n_hidden)
        self.norm = nn.LayerNorm(config.n_hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers: Any = nn.ModuleList(
            TransformerLayer(
                config.n_hidden,
                config.n_heads,
                config.n_intermediate,
                activation=config.activation,
                dropout=config.dropout,
            )
            for _ in range(config.n_layers)
        )
        initialise(self, config.n_hidden)

    def embed(self, tokens: Tensor) -> Tensor:
        """Gene and rank, (B, L) to (B, L, D)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]] + self.segments.weight[0]
        return self.dropout(self.norm(x))

    def forward(self, tokens: Tensor, present: Tensor | None = None, *, n_wanted: int | None = None) -> Tensor:
        """States of the positions of B cells.

        ``tokens``: ``<cls>`` and gene tokens, padded on the right, (B, L). ``present``: which positions are real, (B,
        L) bool; all of them if `None`. ``n_wanted``: how many of the first positions to follow through the last layer,
        all of them if `None`. Where only ``<cls>`` is read, 1 saves most of that layer. Returns (B, L, D), or (B,
        n_wanted, D).
        """
        x = self.embed(tokens)
        *first, last = self.layers
        for layer in first:
            x = layer(x, present)
        return last(x, present, n_wanted)


class TextEncoder(nn.Module):
    """Words of a text, which in the second mode look at a cell's states in every layer."""

    def __init__(self, config: LangCellConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.n_words or len(config.text_vocabulary), config.n_text_hidden)
        self.positions = nn.Embedding(config.max_text_length, config.n_text_hidden)
        self.norm = nn.LayerNorm(config.n_text_hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.text_dropout)
        self.layers: Any = nn.ModuleList(
            TransformerLayer(
                config.n_text_hidden,
                config.n_text_heads,
                config.n_text_intermediate,
                activation=config.text_activation,
                n_context=config.n_hidden,
                dropout=config.text_dropout,
            )
            for _ in range(config.n_text_layers)
        )
        initialise(self, config.n_text_hidden)

    def embed(self, words: Tensor) -> Tensor:
        """Word and position, (P, T) to (P, T, E)."""
        return self.dropout(self.norm(self.tokens(words) + self.positions.weight[: words.shape[1]]))

    def forward(self, words: Tensor, present: Tensor | None = None) -> Tensor:
        """States of P texts on their own, (P, T) to (P, T, E); the layers' attention to a cell is left out."""
        x = self.embed(words)
        for layer in self.layers:
            x = layer(x, present)
        return x

    def look_at(self, cells: Tensor) -> list[KeysValues]:
        """What cells' states (B, L, D) answer in every layer: projected once, however many texts ask."""
        return [layer.context_attention.keys_values(cells) for layer in self.layers]

    def begin(self, words: Tensor, present: Tensor | None = None) -> Tensor:
        """States up to the first look at a cell, (P, T) to (P, T, E): the same for every cell."""
        return self.layers[0].attend(self.embed(words), present)

    def with_cell(
        self,
        begun: Tensor,
        present: Tensor | None,
        answers: Sequence[Answer],
        cell_present: Tensor | None = None,
    ) -> Tensor:
        """What texts that look at a cell each amount to: the states of their first word.

        ``begun``, ``present``: P texts as `begin` leaves them, (P, T, E), and which of their positions are real, (P,
        T). ``answers``: of P cells paired with the texts, as `look_at` gives them, or of one cell that all texts look
        at; or functions that compute them, which layers computed again call again. ``cell_present``: which positions of
        the cells are real, (P, L) or (1, L). Returns (P, E).
        """
        x = begun
        for depth, (layer, answer) in enumerate(zip(self.layers, answers, strict=True)):
            x = layer.checkpointed(self._look, depth, x, present, answer, cell_present)
        return x[:, 0]

    def _look(
        self, depth: int, x: Tensor, present: Tensor | None, answer: Answer, cell_present: Tensor | None
    ) -> Tensor:
        """States after a layer that looks at cells, (P, T, E), from those before."""
        layer = self.layers[depth]
        # The last layer's other words are nobody's keys.
        n_wanted = 1 if depth + 1 == len(self.layers) else None
        x = layer.attend(x, present, n_wanted) if depth else x[:, :n_wanted]
        keys_values = answer() if callable(answer) else answer
        # The texts that look at one cell ask as one long sequence.
        asking = x.reshape(len(keys_values.keys), -1, x.shape[-1])
        return layer.feed_forward(layer.attend_context(asking, keys_values, cell_present).reshape(x.shape))


def unit(x: Tensor) -> Tensor:
    """Scale rows to length 1."""
    return torch.nn.functional.normalize(x, dim=-1)
