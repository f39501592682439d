"""Slow copies of the encoders and a queue of what they said: negatives beyond the batch (Li et al. 2022, BLIP)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from scfoundry.model.langcell._encoders import unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scfoundry.model.langcell._module import LangCellModule

__all__ = ["Momentum", "Pairs"]

# A fresh copy follows closely: a momentum of 0.995 from the first step on would hold it at the initial weights.
WARM_UP = 10


class Pairs(NamedTuple):
    """N cells, each with one text drawn from those that describe it; without texts Z and C are 0 there."""

    cells: Tensor  # (N, Z) unit vectors
    rows: Tensor  # (N,) which cell of the data
    texts: Tensor  # (N, Z) unit vectors
    drawn: Tensor  # (N,) which text
    described: Tensor  # (N, C) all texts of the cell


class Momentum(nn.Module):
    r"""Copies of the encoders whose weights are running means, and a queue of their latest embeddings.

    After step t, :math:`\bar w \leftarrow m_t \bar w + (1 - m_t) w` with
    :math:`m_t = \min(m, t / (t + 10))`.

    ``parts``: which of its encoders and projections are needed. ``n_columns``: texts per cell, 0 without texts.
    """

    steps: Tensor
    oldest: Tensor

    def __init__(self, module: LangCellModule, parts: Sequence[str], *, n_columns: int) -> None:
        super().__init__()
        config = module.config
        self.parts, self.momentum, self.size = tuple(parts), config.momentum, config.queue_size
        for part in parts:
            self.add_module(part, copy.deepcopy(module.get_submodule(part)).requires_grad_(False))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        n_text = config.n_latent if n_columns else 0
        empty = Pairs(
            cells=torch.zeros(self.size, config.n_latent),
            rows=torch.full((self.size,), -1),
            texts=torch.zeros(self.size, n_text),
            drawn=torch.full((self.size,), -1),
            described=torch.full((self.size, n_columns), -1),
        )
        for name, values in empty._asdict().items():
            self.register_buffer(f"queue_{name}", values)
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, module: LangCellModule) -> None:
        """Move the copies towards the model."""
        self.steps += 1
        keep = (self.steps / (self.steps + WARM_UP)).clamp(max=self.momentum)
        for part in self.parts:
            for name, slow in self.get_submodule(part).named_parameters():
                # By name: a weight that learns by matrices of low rank is no parameter, but the sum.
                owner, _, own = f"{part}.{name}".rpartition(".")
                slow.lerp_(getattr(module.get_submodule(owner), own).to(slow.dtype), 1 - keep)

    @torch.no_grad()
    def embed_cells(self, tokens: Tensor, present: Tensor | None) -> Tensor:
        """Embeddings of cells by the slow encoder, (B, L) to (B, Z)."""
        return unit(self.get_submodule("cell_projection")(self.get_submodule("cell")(tokens, present)[:, 0])).float()

    @torch.no_grad()
    def embed_texts(self, words: Tensor, present: Tensor | None) -> Tensor:
        """Embeddings of texts by the slow encoder, (P, T) to (P, Z)."""
        return unit(self.get_submodule("text_projection")(self.get_submodule("text")(words, present)[:, 0])).float()

    @property
    def queue(self) -> Pairs:
        """The latest pairs, as many as there are."""
        stored = Pairs(*(self.get_buffer(f"queue_{name}") for name in Pairs._fields))
        return Pairs(*(values[stored.rows >= 0] for values in stored))

    @torch.no_grad()
    def remember(self, pairs: Pairs) -> None:
        """Put pairs into the queue, where they replace the oldest."""
        n = min(len(pairs.rows), self.size)
        if n:
            places = (self.oldest + torch.arange(n, device=self.oldest.device)) % self.size
            for name, values in pairs._asdict().items():
                self.get_buffer(f"queue_{name}")[places] = values[-n:]
            self.oldest.copy_((self.oldest + n) % self.size)
