"""Flow-Attention over the cells of a context (Wu et al. 2022, Flowformer), exact in any number of chunks.

Cells exchange information through sums over the whole context, so its cost is linear in the number of cells. The sums
are gathered in three sweeps; a sweep may see the context at once or chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FlowAttention", "FlowContext", "Projection", "attend", "flow_context"]

EPS = 1e-6
OUTPUT_DROPOUT = 0.01

Projection = tuple["Tensor", "Tensor", "Tensor"]  # q, k, v of n cells, each (n, H, d)
Sweep = Callable[[], Iterable[Projection]]


class FlowContext(NamedTuple):
    """What every cell needs to know of the whole context."""

    keys: Tensor  # sum_j k_j, (H, d)
    conserved_keys: Tensor  # sum_j k_j O_j, (H, d)
    summary: Tensor  # sum_j k_j^T c_j v_j, (H, d, d)


def flow(x: Tensor, total: Tensor) -> Tensor:
    """sum_c (x_c + eps)(total_c + eps), for x (n, H, d) and total (H, d): (n, H)."""
    total = total + EPS
    return (x * total).sum(-1) + EPS * total.sum(-1)


def _accumulate(total: Tensor | float, chunk: Tensor) -> Tensor:
    # Double precision keeps the sums independent of the chunking; Apple's GPUs have none.
    return total + (chunk if chunk.device.type == "mps" else chunk.double())


def flow_context(sweep: Sweep) -> FlowContext:
    """Gather a context's sums.

    Parameters
    ----------
    sweep
        Gives the projections of all chunks anew at each of three calls.
    """
    n_cells = 0
    queries: Tensor | float = 0.0
    keys: Tensor | float = 0.0
    for q, k, _ in sweep():
        n_cells += len(q)
        queries, keys = _accumulate(queries, q.sum(0)), _accumulate(keys, k.sum(0))
    queries, keys = queries.to(q.dtype), keys.to(q.dtype)

    conserved_queries: Tensor | float = 0.0
    conserved_keys: Tensor | float = 0.0
    for q, k, _ in sweep():
        incoming = flow(q, keys).reciprocal()  # I, (n, H)
        outgoing = flow(k, queries).reciprocal()  # O, (n, H)
        conserved_queries = _accumulate(conserved_queries, torch.einsum("nhd,nh->hd", q, incoming))
        conserved_keys = _accumulate(conserved_keys, torch.einsum("nhd,nh->hd", k, outgoing))
    conserved_queries, conserved_keys = conserved_queries.to(q.dtype), conserved_keys.to(q.dtype)

    total: Tensor | float = 0.0
    summary: Tensor | float = 0.0
    for _, k, v in sweep():
        # O' lies in [-1, 1], so the softmax over cells needs no maximum to be subtracted.
        competition = flow(k, conserved_queries).clamp(-1, 1).exp()  # (n, H)
        total = _accumulate(total, competition.sum(0))
        summary = _accumulate(summary, torch.einsum("nhd,nhe->hde", k, v * competition[..., None]))
    return FlowContext(keys, conserved_keys, (n_cells * summary / total[:, None, None]).to(q.dtype))


def attend(q: Tensor, context: FlowContext) -> Tensor:
    """Flow-Attention of n cells to their whole context: q (n, H, d) to (n, H * d)."""
    allocation = flow(q, context.conserved_keys).sigmoid()
    weight = allocation / flow(q, context.keys)  # (n, H)
    return torch.einsum("nhd,hde->nhe", q * weight[..., None], context.summary).flatten(1)


class FlowAttention(nn.Module):
    """Non-causal Flow-Attention with H heads.

    Parameters
    ----------
    n_hidden
        Width D of a cell.
    n_heads
        Number of heads H.
    """

    def __init__(self, n_hidden: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(n_hidden, n_hidden)
        self.key = nn.Linear(n_hidden, n_hidden)
        self.value = nn.Linear(n_hidden, n_hidden)
        self.out = nn.Linear(n_hidden, n_hidden)
        self.dropout = nn.Dropout(OUTPUT_DROPOUT)

    def project(self, h: Tensor) -> Projection:
        """Queries, keys and values of n cells: (n, D) to three of (n, H, d)."""
        heads = (len(h), self.n_heads, -1)
        q = self.query(h).float().sigmoid_().view(heads)
        k = self.key(h).float().sigmoid_().view(heads)
        return q, k, self.value(h).float().view(heads)

    def output(self, attended: Tensor) -> Tensor:
        """Mix the heads, (n, D) to (n, D)."""
        return self.dropout(self.out(attended))

    def forward(self, h: Tensor) -> Tensor:
        """Attend within a whole context of n cells, (n, D) to (n, D)."""
        projection = self.project(h)
        return self.output(attend(projection[0], flow_context(lambda: [projection])))
