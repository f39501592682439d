"""Attention with dropout, some queries at a time: the same numbers, and little that is kept for the gradient."""

import pytest
import torch
from torch.nn import functional as F

from scfoundry.nn import dropped_attention as module
from scfoundry.nn.dropped_attention import dropped_attention

B, H, T, L, D = 3, 2, 7, 11, 4


def inputs():
    torch.manual_seed(0)
    shapes = ((B, H, T, D), (B, H, L, D), (B, H, L, D))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("at_once", [2 * H * T * L, 3 * H * L, 1])
@pytest.mark.parametrize("padded", [False, True])
def test_parts_give_what_the_whole_gives(monkeypatch, at_once, padded):
    mask = (torch.arange(L) < torch.tensor([[11], [6], [9]]))[:, None, None] if padded else None
    whole, parts = inputs(), inputs()
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    expected = F.scaled_dot_product_attention(*whole, attn_mask=mask)
    found = dropped_attention(*parts, mask, dropout=1e-9)  # so rare that none is drawn
    torch.testing.assert_close(found, expected)
    for output in (found, expected):
        output.pow(3).sum().backward()
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_weights_are_dropped_or_scaled_up(monkeypatch):
    queries, keys, _ = inputs()
    values = torch.eye(L).expand(B, H, L, L)  # what is attended to are the weights themselves
    weights = F.scaled_dot_product_attention(queries, keys, values)
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 3 * H * L)
    found = dropped_attention(queries, keys, values, dropout=0.5)
    kept = found != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(found[kept], 2 * weights[kept])


def test_scores_are_not_kept(monkeypatch):
    monkeypatch.setattr(module, "SCORES_AT_ONCE", H * L)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        dropped_attention(*inputs(), dropout=0.5)
    assert max(kept, default=0) < H * T * L
