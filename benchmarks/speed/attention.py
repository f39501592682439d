"""Flow-Attention in linear time beside the same attention with its N x N matrix written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.speed.memory import peak_above_start
from scfoundry.model.cellplm._attention import FlowAttention

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.speed.clock import Clock

__all__ = ["attention_memory", "quadratic_attention", "time_attention"]

EPS = 1e-6
WIDTH, HEADS = 1024, 8
TOLERANCE = 1e-4


def quadratic_attention(attention: FlowAttention, h: Tensor) -> Tensor:
    """Attention of n cells to each other, (n, D) to (n, D), from their flow matrix F = (q + eps)(k + eps)^T, (H, n, n).

    Every cell's incoming flow is a row sum of F, its outgoing flow a column sum; the weight of cell j for cell i is
    its own entry of a matrix.
    """
    n = len(h)
    q, k, v = (projection.transpose(0, 1) for projection in attention.project(h))  # (H, n, d)
    flow = (q + EPS) @ (k + EPS).transpose(1, 2)  # (H, n, n), rows receive, columns send
    incoming = 1 / flow.sum(2)  # I, (H, n)
    outgoing = 1 / flow.sum(1)  # O
    conserved_incoming = (flow @ outgoing[..., None]).squeeze(-1)  # I'
    conserved_outgoing = (flow.transpose(1, 2) @ incoming[..., None]).squeeze(-1).clamp(-1, 1)  # O'
    allocation = conserved_incoming.sigmoid()
    competition = n * conserved_outgoing.softmax(-1)
    weights = (allocation * incoming)[..., None] * (q @ k.transpose(1, 2)) * competition[:, None, :]  # (H, n, n)
    return attention.output((weights @ v).transpose(0, 1).flatten(1))


def _inputs(n_cells: int) -> tuple[FlowAttention, Tensor]:
    generator = torch.Generator().manual_seed(n_cells)
    return FlowAttention(WIDTH, HEADS).eval(), torch.randn(n_cells, WIDTH, generator=generator)


@torch.no_grad()
def time_attention(n_cells: int, clock: Clock, repeats: int) -> dict[str, Any]:
    """Seconds of both, and how far apart their outputs are.

    Raises
    ------
    AssertionError
        If they differ by more than rounding.
    """
    attention, h = _inputs(n_cells)
    linear, quadratic = attention(h), quadratic_attention(attention, h)
    difference = float((linear - quadratic).abs().max() / linear.abs().max())
    if difference > TOLERANCE:
        msg = f"Linear and quadratic attention differ by {difference:.1e} of the largest value at {n_cells} cells."
        raise AssertionError(msg)
    del linear, quadratic
    seconds = clock.best(
        {"linear": lambda: attention(h), "quadratic": lambda: quadratic_attention(attention, h)}, repeats
    )
    return {"seconds": seconds, "largest_relative_difference": difference}


@torch.no_grad()
def attention_memory(kind: str, n_cells: int) -> int:
    """Bytes at the peak beyond inputs and weights; to be run in a process of its own."""
    attention, h = _inputs(n_cells)
    run = attention if kind == "linear" else lambda h: quadratic_attention(attention, h)
    return peak_above_start(lambda: run(h))
