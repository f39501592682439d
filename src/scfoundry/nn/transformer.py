"""Transformer layers (Vaswani et al. 2017; Devlin et al. 2019), with optional attention to a context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from scfoundry.nn.checkpointed import CheckpointedLayer
from scfoundry.nn.dropped_attention import dropped_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from torch import Tensor

__all__ = ["Activation", "KeysValues", "TransformerLayer", "queries_and_keys"]

Activation = Literal["relu", "gelu"]
# In place where PyTorch can: nothing else reads what comes in.
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "gelu": F.gelu}
LAYER_NORM_EPS = 1e-12


class KeysValues(NamedTuple):
    """Keys and values of a sequence, each (B, H, L, d)."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Multi-head attention; ``n_context`` is the width of the sequence that answers."""

    lora_targets = ("query", "value")

    def __init__(self, n_hidden: int, n_heads: int, *, n_context: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(n_hidden, n_hidden)
        self.key = nn.Linear(n_context or n_hidden, n_hidden)
        self.value = nn.Linear(n_context or n_hidden, n_hidden)
        self.out = nn.Linear(n_hidden, n_hidden)
        self.dropout = dropout

    def keys_values(self, context: Tensor) -> KeysValues:
        """What a sequence (B, L, C) answers; to be kept where many sequences ask."""
        return KeysValues(self._heads(self.key(context)), self._heads(self.value(context)))

    def forward(self, x: Tensor, answers: KeysValues, present: Tensor | None = None) -> Tensor:
        """Attend from x, (B, T, D), to a context whose real positions are marked in ``present``, (B, L): (B, T, D)."""
        mask = None if present is None else present[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        attended = dropped_attention(self._heads(self.query(x)), *answers, mask, dropout)
        return self.out(attended.transpose(1, 2).flatten(2))

    def queries_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the logits between the positions of x, (B, L, D), the scale in the queries: (B, H, L, d) each."""
        queries, keys = self._heads(self.query(x)), self._heads(self.key(x))
        return queries / queries.shape[-1] ** 0.5, keys

    def _heads(self, x: Tensor) -> Tensor:
        # Contiguous heads save the attention's inner loop more than the copy costs.
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2).contiguous()


class TransformerLayer(CheckpointedLayer):
    """Self-attention, attention to a context where ``n_context`` gives its width, and a network on each position.

    Every part is ``x <- LayerNorm(x + part(x))``, or ``x <- x + part(LayerNorm(x))`` with ``pre_norm``; ``"gelu"`` is
    the exact one. ``inner_dropout`` is that within the network, of which BERT has none.
    """

    def __init__(
        self,
        n_hidden: int,
        n_heads: int,
        n_intermediate: int,
        *,
        activation: Activation,
        n_context: int | None = None,
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
        eps: float = LAYER_NORM_EPS,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = Attention(n_hidden, n_heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(n_hidden, eps=eps)
        if n_context is not None:
            self.context_attention = Attention(n_hidden, n_heads, n_context=n_context, dropout=dropout)
            self.context_norm = nn.LayerNorm(n_hidden, eps=eps)
        self.expand = nn.Linear(n_hidden, n_intermediate)
        self.contract = nn.Linear(n_intermediate, n_hidden)
        self.norm = nn.LayerNorm(n_hidden, eps=eps)
        self.activation = ACTIVATIONS[activation]
        self.dropout, self.inner_dropout = nn.Dropout(dropout), nn.Dropout(inner_dropout)

    def attend(self, x: Tensor, present: Tensor | None = None, n_wanted: int | None = None) -> Tensor:
        """Positions of a sequence inform each other, (B, L, D), or the first ``n_wanted`` of them only."""
        read = self.attention_norm(x) if self.pre_norm else x
        attended = self.attention(read[:, :n_wanted], self.attention.keys_values(read), present)
        x = x[:, :n_wanted] + self.dropout(attended)
        return x if self.pre_norm else self.attention_norm(x)

    def attend_context(self, x: Tensor, answers: KeysValues, present: Tensor | None = None) -> Tensor:
        """The context informs every position, (B, T, D)."""
        read = self.context_norm(x) if self.pre_norm else x
        x = x + self.dropout(self.context_attention(read, answers, present))
        return x if self.pre_norm else self.context_norm(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The network on each position, (B, L, D)."""
        read = self.norm(x) if self.pre_norm else x
        x = x + self.dropout(self.contract(self.inner_dropout(self.activation(self.expand(read)))))
        return x if self.pre_norm else self.norm(x)

    def forward(self, x: Tensor, present: Tensor | None = None, n_wanted: int | None = None) -> Tensor:
        """Self-attention and network, (B, L, D), of the first ``n_wanted`` positions, informed by all."""
        return self.feed_forward(self.attend(x, present, n_wanted))


def queries_and_keys(
    layers: Iterable[TransformerLayer], x: Tensor, present: Tensor | None, wanted: Collection[int]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Queries and keys (`Attention.queries_keys`) of the ``wanted`` layers, with their numbers, as they are computed.

    ``x``: what the first layer reads, (B, L, D). Layers after the last one that is wanted are not computed.
    """
    for number, layer in enumerate(layers):
        if number in wanted:
            yield number, *layer.attention.queries_keys(layer.attention_norm(x) if layer.pre_norm else x)
        if number >= max(wanted, default=-1):
            return
        x = layer(x, present)
