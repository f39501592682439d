"""Flow-Attention over the cells of a context (Wu et al. 2022, Flowformer), exact in any number of chunks.

Cells exchange information through sums over the whole context, so its cost is linear in the number of cells. The sums
are gathered in three sweeps; a sweep may see the context at once or chunk by chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FlowAttention", "FlowContext", "Projection", "attend", "flow_context", "flow_context_by", "total"]

EPS = 1e-6
OUTPUT_DROPOUT = 0.01

T = TypeVar("T")
Projection = tuple["Tensor", ...]  # some of q, k, v of n cells, each (n, H, d)
Sweep = Callable[[str], Iterable[Projection]]
Gather = Callable[..., "list[Tensor]"]


def full_precision(function: Callable[..., T]) -> Callable[..., T]:
    """Keep sums over cells out of autocast: they are cheap, and rounding or casting them is not."""

    @functools.wraps(function)
    def run(x: Tensor, *args: Tensor) -> T:
        with torch.autocast(x.device.type, enabled=False):
            return function(x, *args)

    return run


class FlowContext(NamedTuple):
    """What every cell needs to know of the whole context."""

    keys: Tensor  # sum_j k_j, (H, d)
    conserved_keys: Tensor  # sum_j k_j O_j, (H, d)
    summary: Tensor  # sum_j k_j^T c_j v_j, (H, d, d)


def flow(x: Tensor, total: Tensor) -> Tensor:
    """sum_c (x_c + eps)(total_c + eps), for x (n, H, d) and total (H, d): (n, H)."""
    total = total + EPS
    return (x * total).sum(-1) + EPS * total.sum(-1)


def total(parts: Iterable[Sequence[Tensor]], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Sum each entry over the chunks; in the type of the chunks if ``dtype`` is `None`."""
    sums: list[Tensor] = []
    for part in parts:
        # Double precision keeps the sums independent of the chunking; Apple's GPUs have none.
        wide = [x if x.device.type == "mps" else x.double() for x in part]
        sums = [a + b for a, b in zip(sums, wide, strict=True)] if sums else wide
        dtype = dtype or part[0].dtype
    return [x.to(dtype) for x in sums]


def flow_context(sweep: Sweep) -> FlowContext:
    """Gather a context's sums.

    ``sweep``: gives those projections of all chunks that a string such as ``"qk"`` names, anew at each of three calls.
    """
    return flow_context_by(lambda names, term, *sums: total(term(*projection, *sums) for projection in sweep(names)))


def flow_context_by(gather: Gather) -> FlowContext:
    """The same, where ``gather(names, term, *sums)`` sums ``term(*projections, *sums)`` over all cells."""
    queries, keys = gather("qk", sums_of)
    conserved_queries, conserved_keys = gather("qk", conserved, queries, keys)
    summary, norm, n_cells = gather("kv", competing, conserved_queries)
    return FlowContext(keys, conserved_keys, summary * (n_cells / norm)[:, None, None])


def sums_of(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over cells."""
    return q.sum(0), k.sum(0)


@full_precision
def conserved(q: Tensor, k: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """sum_i q_i I_i and sum_j k_j O_j, given the sums of queries and keys, (H, d) each."""
    incoming = flow(q, keys).reciprocal()  # I, (n, H)
    outgoing = flow(k, queries).reciprocal()  # O, (n, H)
    # As a product with one row per head, either of these sums would take ten times as long.
    return (q * incoming[..., None]).sum(0), (k * outgoing[..., None]).sum(0)


@full_precision
def competition(k: Tensor, conserved_queries: Tensor) -> Tensor:
    """How much cells compete for the queries, c before it is normalised, (n, H)."""
    # O' lies in [-1, 1], so the softmax over cells needs no maximum to be subtracted.
    return flow(k, conserved_queries).clamp(-1, 1).exp()


@full_precision
def competing(k: Tensor, v: Tensor, conserved_queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sum_j k_j^T c_j v_j before c is normalised, the sum of c, and how many cells it is of."""
    weights = competition(k, conserved_queries)
    weighted = torch.einsum("nhd,nhe->hde", k, v * weights[..., None])
    return weighted, weights.sum(0), weights.new_tensor(len(k))


@full_precision
def attend(q: Tensor, context: FlowContext) -> Tensor:
    """Flow-Attention of n cells to their whole context: q (n, H, d) to (n, H * d)."""
    allocation = flow(q, context.conserved_keys).sigmoid()
    weight = allocation / flow(q, context.keys)  # (n, H)
    return torch.einsum("nhd,hde->nhe", q * weight[..., None], context.summary).flatten(1)


class FlowAttention(nn.Module):
    """Non-causal Flow-Attention with H heads."""

    lora_targets = ("query", "value")

    def __init__(self, n_hidden: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(n_hidden, n_hidden)
        self.key = nn.Linear(n_hidden, n_hidden)
        self.value = nn.Linear(n_hidden, n_hidden)
        self.out = nn.Linear(n_hidden, n_hidden)
        self.dropout = nn.Dropout(OUTPUT_DROPOUT)

    def project(self, h: Tensor, names: str = "qkv") -> Projection:
        """Queries, keys and values of n cells, those that are named: (n, D) to (n, H, d) each."""
        layers = {"q": self.query, "k": self.key, "v": self.value}
        projections = (layers[name](h).float().view(len(h), self.n_heads, -1) for name in names)
        return tuple(x if name == "v" else x.sigmoid_() for name, x in zip(names, projections, strict=True))

    def output(self, attended: Tensor) -> Tensor:
        """Mix the heads, (n, D) to (n, D)."""
        return self.dropout(self.out(attended))

    def forward(self, h: Tensor) -> Tensor:
        """Attend within a whole context of n cells, (n, D) to (n, D)."""
        projection = dict(zip("qkv", self.project(h), strict=True))
        context = flow_context(lambda names: [tuple(projection[name] for name in names)])
        return self.output(attend(projection["q"], context))
