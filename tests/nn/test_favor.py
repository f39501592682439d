"""FAVOR+: what it estimates, how keys are counted, and what no result depends on."""

import pytest
import torch

from scfoundry.nn import favor
from scfoundry.nn.favor import exact_attention, favor_attention, favor_weights, orthogonal_features

N_CELLS, N_HEADS, N_POSITIONS, WIDTH = 3, 2, 9, 8


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(3, N_CELLS, N_HEADS, N_POSITIONS, WIDTH, dtype=torch.float64)


@pytest.fixture
def omega():
    torch.manual_seed(1)
    return orthogonal_features(20, WIDTH).double()


@pytest.fixture
def ones():
    return torch.ones(N_CELLS, N_POSITIONS, dtype=torch.float64)


def test_rows_are_orthogonal_within_blocks_and_as_long_as_gaussian_ones():
    torch.manual_seed(0)
    omega = orthogonal_features(20, WIDTH)
    assert omega.shape == (20, WIDTH)
    for block in omega.split(WIDTH):
        products = block @ block.T
        torch.testing.assert_close(products, products.diagonal().diag(), atol=1e-4, rtol=0)
    lengths = orthogonal_features(4000, WIDTH).norm(dim=1)
    assert abs(float(lengths.square().mean()) / WIDTH - 1) < 0.05  # chi-squared with as many degrees as dimensions
    assert float(lengths.std()) > 0.5


def test_more_features_come_closer_to_softmax(inputs, ones, monkeypatch):
    """As far as eps lets them: it draws weights together, the more so the larger the exponents are."""
    exact, errors = exact_attention(*inputs / 2, ones), {}
    torch.manual_seed(0)
    for eps in (favor.EPS, 1e-12):
        monkeypatch.setattr(favor, "EPS", eps)
        for n in (16, 256, 4096):
            drawn = [favor_attention(*inputs / 2, orthogonal_features(n, WIDTH).double(), ones) for _ in range(5)]
            errors[eps, n] = float(torch.stack([(x - exact).abs().mean() for x in drawn]).mean() / exact.abs().mean())
    without = [errors[1e-12, n] for n in (16, 256, 4096)]
    assert without[0] > 2 * without[1] > 4 * without[2]
    assert without[2] < 0.03
    assert errors[1e-4, 16] > 2 * errors[1e-4, 256]


@pytest.mark.parametrize("attention", ["favor", "exact"])
def test_a_key_that_counts_several_times_is_as_many_keys(inputs, omega, ones, attention):
    queries, keys, values = inputs
    how = (omega,) if attention == "favor" else ()
    attend = favor_attention if attention == "favor" else exact_attention
    repeated = [torch.cat([x, x[:, :, :1], x[:, :, :1]], 2) for x in (keys, values)]
    expected = attend(queries, *repeated, *how, torch.ones(N_CELLS, N_POSITIONS + 2, dtype=torch.float64))
    ones[:, 0] = 3
    torch.testing.assert_close(attend(queries, keys, values, *how, ones), expected)


@pytest.mark.parametrize("stabiliser", ["cell", "batch"])
def test_keys_without_weight_play_no_part_however_large(inputs, omega, ones, stabiliser):
    queries, keys, values = inputs
    expected = favor_attention(queries, keys[:, :, :5], values[:, :, :5], omega, ones[:, :5], stabiliser)
    keys[:, :, 5:], values[:, :, 5:], ones[:, 5:] = 1e3, 1e3, 0
    found = favor_attention(queries, keys, values, omega, ones, stabiliser)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        exact_attention(*inputs, ones), exact_attention(queries, *(x[:, :, :5] for x in (keys, values)), ones[:, :5])
    )


def test_cells_depend_on_each_other_by_the_stabiliser_of_the_batch_alone(inputs, omega, ones):
    inputs[1, 2] *= 3  # another cell has larger keys
    alone = favor_attention(*inputs[:, :1], omega, ones[:1])
    together = {kind: favor_attention(*inputs, omega, ones, kind)[:1] for kind in ("cell", "batch")}
    torch.testing.assert_close(together["cell"], alone)
    assert (together["batch"] - alone).abs().max() > 1e-3


def test_the_implied_weights_give_the_same_sums(inputs, omega, ones):
    queries, keys, values = inputs
    ones[:, 2] = 4
    weights = favor_weights(queries, keys, omega, ones)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    torch.testing.assert_close(weights @ values, favor_attention(queries, keys, values, omega, ones))


def test_features_are_of_single_precision_under_autocast(inputs, omega, ones):
    inputs = inputs.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = favor_attention(*inputs, omega.float(), ones)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, favor_attention(*inputs, omega.float(), ones), rtol=0, atol=0)
