"""A layer that is computed again in the backward pass keeps its input alone."""

from __future__ import annotations

import torch

from scfoundry.nn import checkpointed
from scfoundry.nn.transformer import TransformerLayer


def test_the_input_alone_is_kept_and_nothing_without_gradients():
    layer = TransformerLayer(16, 2, 64, activation="gelu", dropout=0.2)
    x, present = torch.randn(3, 5, 16, requires_grad=True), torch.ones(3, 5, dtype=torch.bool)
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.manual_seed(0)
        layer(x, present).sum().backward()
        expected, x.grad, usual = x.grad, None, sum(kept)
        kept.clear()
        layer.gradient_checkpointing = True
        torch.manual_seed(0)
        output = layer(x, present)
        assert sum(kept) <= x.numel() + present.numel()
        assert usual > 10 * sum(kept)
        output.sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=0)
    with torch.no_grad():
        assert not layer(x, present).requires_grad


def test_the_system_gets_back_what_tensors_have_left_before_a_layer_is_computed(monkeypatch):
    trims: list[int] = []
    monkeypatch.setattr(checkpointed, "MALLOC_TRIM", trims.append)
    layer = TransformerLayer(16, 2, 64, activation="gelu")
    x = torch.randn(3, 5, 16, requires_grad=True)
    layer(x).sum().backward()
    assert not trims
    layer.gradient_checkpointing = True
    layer(x).sum().backward()
    assert len(trims) == 2  # when it is computed, and again
    monkeypatch.setattr(checkpointed, "MALLOC_TRIM", None)  # where the C library has none
    layer(x).sum().backward()
