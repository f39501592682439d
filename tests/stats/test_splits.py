"""Held-out cells and draws of cells by class."""

from __future__ import annotations

import numpy as np
import pytest

from scfoundry.stats.splits import at_most, stratified_split


@pytest.mark.parametrize(("at_least", "held_out"), [(0, [4, 2, 0, 0]), (1, [4, 2, 1, 0])])
def test_a_split_takes_the_same_share_of_every_class(at_least, held_out):
    classes = np.repeat([0, 1, 2, 3], [40, 20, 4, 1])
    learned, rest = stratified_split(classes, 0.1, np.arange(65), np.random.default_rng(0), at_least=at_least)
    assert np.bincount(classes[rest], minlength=4).tolist() == held_out
    assert np.array_equal(np.sort(np.concatenate([learned, rest])), np.arange(65))


def test_rare_classes_keep_all_and_every_class_one():
    codes = np.repeat(np.arange(3), [40, 30, 4])
    drawn = at_most(24, codes, np.arange(74), np.random.default_rng(0))
    assert np.bincount(codes[drawn]).tolist() == [10, 10, 4]
    codes = np.repeat(np.arange(5), 4)
    assert set(codes[at_most(3, codes, np.arange(20), np.random.default_rng(0))]) == set(range(5))
