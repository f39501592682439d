"""What a transformer layer computes for some positions is what it computes for them among all."""

import pytest
import torch

from scfoundry.nn.transformer import TransformerLayer

CLOSE = {"atol": 1e-6, "rtol": 0}


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return TransformerLayer(32, 4, 64, activation="gelu").eval()


@pytest.mark.parametrize("n_wanted", [1, 5])
@pytest.mark.parametrize("padded", [False, True])
def test_wanted_positions_are_informed_by_all(layer, n_wanted, padded):
    x = torch.randn(3, 9, 32)
    present = torch.arange(9) < torch.tensor([[9], [6], [5]]) if padded else None
    some = layer(x, present, n_wanted)
    torch.testing.assert_close(some, layer(x, present)[:, :n_wanted], **CLOSE)
    changed = x.clone()
    changed[:, 4] += 1
    assert not torch.allclose(layer(changed, present, 1), some[:, :1], atol=1e-3)


def test_missing_positions_inform_nobody(layer):
    x = torch.randn(2, 6, 32)
    present = torch.tensor([[True] * 4 + [False] * 2] * 2)
    torch.testing.assert_close(layer(x, present)[:, :4], layer(x[:, :4]), **CLOSE)
