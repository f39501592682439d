"""Softmax attention with dropout where no kernel has both: on a CPU, scores are written out, some at a time."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["dropped_attention"]

# Scores of heads, queries and keys that are in memory at a time: 32 MB as float32, of which a gradient needs six.
SCORES_AT_ONCE = 2**23


def dropped_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attend from T positions to L others, (B, H, T, d), with ``dropout`` of the weights after the softmax.

    ``keys``, ``values``: (B, H, L, d). ``mask``: which keys are real, (B, 1, 1, L). Rows of the softmax do not depend
    on each other: on a CPU those of some cells, or of some queries of one, are computed at a time, and for the gradient
    again.
    """
    n_cells, n_heads, n_queries, _ = queries.shape
    per_query = n_heads * keys.shape[2]
    if not dropout or queries.device.type != "cpu" or n_cells * n_queries * per_query <= SCORES_AT_ONCE:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
    together = max(1, SCORES_AT_ONCE // (n_queries * per_query))
    asking = max(1, SCORES_AT_ONCE // per_query)
    masks = repeat(None) if mask is None else mask.split(together)
    parts = zip(queries.split(together), keys.split(together), values.split(together), masks, strict=False)
    return torch.cat(
        [torch.cat([_attend(q, k, v, m, dropout) for q in qs.split(asking, 2)], 2) for qs, k, v, m in parts]
    )


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    if not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(queries, keys, values, mask, dropout)
    return checkpoint(F.scaled_dot_product_attention, queries, keys, values, mask, dropout, use_reentrant=False)
