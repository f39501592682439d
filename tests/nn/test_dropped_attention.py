"""Attention with dropout, some heads at a time: the same numbers, and little that is kept for the gradient."""

import pytest
import torch
from torch.nn import functional as F

from scfoundry.nn import dropped_attention as module
from scfoundry.nn.dropped_attention import dropped_attention

B, H, T, L, D = 3, 2, 7, 11, 4


def inputs():
    drawn = torch.Generator().manual_seed(0)
    shapes = ((B, H, T, D), (B, H, L, D), (B, H, L, D))
    return [torch.randn(shape, generator=drawn, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("at_once", [B * H * T * L, 4 * T * L, 1])
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
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 4 * T * L)
    found = dropped_attention(queries, keys, values, dropout=0.5)
    kept = found != 0
    assert 0.4 < kept.float().mean() < 0.6
    assert not (kept[0] == kept[-1]).all()
    torch.testing.assert_close(found[kept], 2 * weights[kept])


@pytest.mark.parametrize("dropout", [0.1, 0.9, 0.999995, 1.0])
def test_as_many_are_dropped_as_asked(dropout):
    queries, keys = torch.zeros(2, 2, 300, D), torch.zeros(2, 2, 300, D)
    found = dropped_attention(queries, keys, torch.eye(300).expand(2, 2, 300, 300), dropout=dropout)
    assert (found == 0).double().mean().item() == pytest.approx(dropout, abs=4 * (0.25 / found.numel()) ** 0.5)


def test_gradient_is_of_the_weights_that_were_kept():
    """By differences: a seed drops the same weights again."""

    def attend(*parts):
        torch.manual_seed(1)
        return dropped_attention(*parts, present, dropout=0.4)

    present = torch.arange(L)[None, None, None] < 8
    parts = inputs()
    attend(*parts).pow(3).sum().backward()
    for part in parts:
        step = 1e-2 * torch.randn(part.shape)
        moved = [[(other + sign * step if other is part else other).detach() for other in parts] for sign in (1, -1)]
        above, below = (attend(*these).pow(3).sum() for these in moved)
        torch.testing.assert_close((part.grad * step).sum(), (above - below) / 2, rtol=1e-2, atol=1e-4)


def test_a_seed_drops_the_same_and_the_next_call_others():
    torch.manual_seed(3)
    first, second = (dropped_attention(*inputs(), dropout=0.5) for _ in range(2))
    torch.manual_seed(3)
    again = dropped_attention(*inputs(), dropout=0.5)
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert not torch.equal(second, first)


def test_without_any_key_the_answer_is_zero():
    mask = torch.zeros(B, 1, 1, L, dtype=torch.bool)
    mask[1] = True
    parts = inputs()
    found = dropped_attention(*parts, mask, dropout=0.5)
    assert (found[0] == 0).all()
    assert (found[1] != 0).any()
    found.sum().backward()
    assert all(part.grad.isfinite().all() for part in parts)


def test_half_precision_comes_and_goes_under_autocast():
    parts = [part.bfloat16() for part in inputs()]
    with torch.autocast("cpu", torch.bfloat16):
        found = dropped_attention(*parts, dropout=1e-9)
    expected = F.scaled_dot_product_attention(*(part.float() for part in parts))
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


def test_scores_are_not_kept():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        dropped_attention(*inputs(), dropout=0.5)
    assert max(kept) < B * H * T * L
