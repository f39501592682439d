"""Softmax attention with dropout of its weights; on a CPU, where no kernel of PyTorch has both, our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["dropped_attention"]

# Scores of heads, queries and keys that are in memory at a time, 4 MB as float32: what a cache holds.
SCORES_AT_ONCE = 2**20
TINY = torch.finfo(torch.float32).tiny
# Numbers that are drawn for a weight: 16 bits.
N_DRAWN = 2**16


def dropped_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attend from T positions to L others, (B, H, T, d), with ``dropout`` of the weights after the softmax.

    ``keys``, ``values``: (B, H, L, d). ``mask``: which keys are real, (B, 1, 1, L).
    """
    if not dropout or queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
    scaled = queries / queries.shape[-1] ** 0.5
    bias = None
    if mask is not None:  # added to scores, which is faster than filling them
        bias = queries.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)
        bias = bias.expand(*queries.shape[:2], 1, -1).flatten(0, 1)
    # One matrix for every head of every cell, M = B * H.
    parts = (part.flatten(0, 1) for part in (scaled, keys, values))
    return _DroppedAttention.apply(*parts, bias, dropout).unflatten(0, queries.shape[:2])


class _DroppedAttention(torch.autograd.Function):
    """Some matrices of scores at a time, which the gradient computes again, as it draws again what was dropped.

    Drawing takes most of the time in PyTorch, which draws one number after another by one thread: here 16 bits of
    random integers decide.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        """Attended values, (M, T, d), of scaled queries."""
        # As many of the numbers drop a weight; never all, so that what is left can be scaled up.
        n_dropping = min(round(dropout * N_DRAWN), N_DRAWN - 1)
        attended = values.new_empty(*queries.shape[:2], values.shape[2])
        # Logarithm of the softmax's denominator, (M, T, 1), by which the gradient finds the weights in one step.
        totals = queries.new_empty(*queries.shape[:2], 1)
        seed = int(torch.randint(2**62, ()))
        for part, scores, kept in _scores(queries, keys, bias, n_dropping, seed):
            # Without any key all scores are -inf, and the answer is 0, as that of PyTorch is.
            highest = scores.amax(-1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)
            total = scores.sub_(highest).exp_().sum(-1, keepdim=True).clamp_(min=TINY)
            totals[part] = highest + total.log()
            torch.bmm(scores.mul_(kept), values[part], out=attended[part])
            attended[part] /= total * (1 - n_dropping / N_DRAWN)
        ctx.save_for_backward(queries, keys, values, bias, attended, totals)
        ctx.n_dropping, ctx.seed = n_dropping, seed
        return attended

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        queries, keys, values, bias, attended, totals = ctx.saved_tensors
        (gradient,) = gradients
        of_queries, of_keys, of_values = (torch.empty_like(tensor) for tensor in (queries, keys, values))
        # Of the weights' gradients, weighted by the weights, a query's sum is what its output says.
        sums = (gradient * attended).sum(-1, keepdim=True)
        gradient = gradient / (1 - ctx.n_dropping / N_DRAWN)
        for part, scores, kept in _scores(queries, keys, bias, ctx.n_dropping, ctx.seed):
            weights = scores.sub_(totals[part]).exp_()
            of_scores = torch.bmm(gradient[part], values[part].transpose(1, 2)).mul_(kept)
            of_scores.sub_(sums[part]).mul_(weights)
            torch.bmm(of_scores, keys[part], out=of_queries[part])
            torch.bmm(of_scores.transpose(1, 2), queries[part], out=of_keys[part])
            torch.bmm(weights.mul_(kept).transpose(1, 2), gradient[part], out=of_values[part])
        return of_queries, of_keys, of_values, None, None


def _scores(
    queries: Tensor, keys: Tensor, bias: Tensor | None, n_dropping: int, seed: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some matrices of scores after the others: which ones, scores (m, T, L), and 1 where a weight is kept, else 0."""
    n_matrices, n_queries, n_keys = len(queries), queries.shape[1], keys.shape[1]
    together = max(1, SCORES_AT_ONCE // (n_queries * n_keys))
    memory, keeping = queries.new_empty(2, min(together, n_matrices), n_queries, n_keys)
    drawn = np.random.SFC64(seed)
    for start in range(0, n_matrices, together):
        part = slice(start, min(start + together, n_matrices))
        scores = torch.bmm(queries[part], keys[part].transpose(1, 2), out=memory[: part.stop - start])
        if bias is not None:
            scores += bias[part]
        # Four numbers of 16 bits in each of 64, from -2**15 on.
        bits = torch.from_numpy(drawn.random_raw(-(-scores.numel() // 4)).view(np.int16))[: scores.numel()]
        kept = torch.ge(bits.view(scores.shape), n_dropping - N_DRAWN // 2, out=keeping[: len(scores)])
        yield part, scores, kept
