"""What a transformer layer computes for some positions is what it computes for them among all."""

import pytest
import torch

from scfoundry.nn.transformer import TransformerLayer, queries_and_keys

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


@pytest.mark.parametrize("padded", [False, True])
def test_queries_and_keys_give_the_weights_that_the_attention_of_every_wanted_layer_uses(layer, padded):
    torch.manual_seed(1)
    layers = [layer, TransformerLayer(32, 4, 64, activation="relu").eval()]
    x = torch.randn(3, 9, 32)
    present = torch.arange(9) < torch.tensor([[9], [6], [5]]) if padded else torch.ones(3, 9, dtype=bool)
    found = {number: (queries, keys) for number, queries, keys in queries_and_keys(layers, x, present, [0, 1])}
    for number, one in enumerate(layers):
        queries, keys = found[number]
        logits = (queries @ keys.transpose(-1, -2)).masked_fill(~present[:, None, None], -torch.inf)
        answers = one.attention.keys_values(x)
        mixed = (logits.softmax(-1) @ answers.values).transpose(1, 2).flatten(2)
        expected = one.attention(x, answers, present)
        torch.testing.assert_close(one.attention.out(mixed), expected, atol=1e-5, rtol=0)
        x = one(x, present)


def test_layers_after_the_last_wanted_one_are_not_computed(layer):
    last = TransformerLayer(32, 4, 64, activation="relu").eval()
    last.register_forward_hook(lambda *_: pytest.fail("was computed"))
    found = list(queries_and_keys([layer, last], torch.randn(2, 5, 32), None, [0]))
    assert [number for number, *_ in found] == [0]
