"""Learning rates of published recipes for other widths."""

import pytest

from scfoundry.train.rates import rate_at_width


@pytest.mark.parametrize(("n_hidden", "expected"), [(512, 1e-4), (128, 4e-4), (1024, 1e-4)])
def test_narrower_networks_learn_in_proportion_faster(n_hidden, expected):
    assert rate_at_width(1e-4, n_hidden) == pytest.approx(expected)
