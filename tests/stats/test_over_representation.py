"""The hypergeometric test, beside scipy's exact test of tables and a published adjustment."""

import numpy as np
import pytest
from scipy.stats import fisher_exact

from scfoundry.stats.over_representation import over_representation


@pytest.fixture
def members():
    rng = np.random.default_rng(0)
    return rng.random((4, 60)) < 0.3, rng.random((5, 60)) < 0.2


def test_p_values_are_those_of_fishers_exact_test(members):
    groups, sets = members
    found = over_representation(groups, sets)
    for p, group in enumerate(groups):
        for s, one in enumerate(sets):
            table = [[(group & one).sum(), (group & ~one).sum()], [(~group & one).sum(), (~group & ~one).sum()]]
            assert found.p_values[p, s] == pytest.approx(fisher_exact(table, alternative="greater").pvalue)
            assert found.overlap[p, s] == table[0][0]
            assert found.fold[p, s] == pytest.approx(table[0][0] / (group.sum() * one.sum() / 60))


def test_q_values_are_adjusted_for_all_tests(members):
    found = over_representation(*members)
    p = np.sort(found.p_values.ravel())
    expected = np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    np.testing.assert_allclose(np.sort(found.q_values.ravel()), np.minimum(expected, 1))


def test_empty_groups_and_sets_are_never_enriched(members):
    groups, sets = (part.copy() for part in members)
    groups[1], sets[2] = False, False
    found = over_representation(groups, sets)
    np.testing.assert_array_equal(found.p_values[1], 1)
    np.testing.assert_array_equal(found.p_values[:, 2], 1)
    assert np.isnan(found.fold[1]).all()


def test_no_groups_are_no_tests(members):
    found = over_representation(members[0][:0], members[1])
    assert found.q_values.shape == (0, 5)
