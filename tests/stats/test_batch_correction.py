"""Offsets of batches, cluster by cluster."""

from __future__ import annotations

import numpy as np
import pytest

from scfoundry.stats.batch_correction import BatchCorrection

N_CLUSTERS, WIDTH = 3, 6
CENTRES = 4 * np.eye(N_CLUSTERS, WIDTH)


@pytest.fixture
def cells():
    """Points of three types in two batches, of which the second is moved by another offset in every type."""
    rng = np.random.default_rng(0)
    types, batches = rng.integers(N_CLUSTERS, size=600), rng.integers(2, size=600)
    points = CENTRES[types] + 0.2 * rng.normal(size=(600, WIDTH))
    shifts = rng.normal(size=(N_CLUSTERS, WIDTH))
    return points + batches[:, None] * shifts[types], types, batches


def gap(points, types, batches):
    """Mean distance between the centres of a type in both batches."""
    centres = [[points[(types == t) & (batches == b)].mean(0) for b in (0, 1)] for t in range(N_CLUSTERS)]
    return np.mean([np.linalg.norm(first - second) for first, second in centres])


def test_a_planted_shift_of_its_own_in_every_cluster_is_recovered(cells):
    points, types, batches = cells
    corrected = BatchCorrection.fit(points, batches).apply(points, batches)
    assert gap(points, types, batches) > 1.5
    assert gap(corrected, types, batches) < 0.15
    centres = np.stack([corrected[types == t].mean(0) for t in range(N_CLUSTERS)])
    distances = np.linalg.norm(centres[:, None] - centres, axis=-1)[np.triu_indices(N_CLUSTERS, 1)]
    assert distances.min() > 3


def test_a_single_batch_stays_as_it_is(cells):
    points, _, _ = cells
    alone = np.zeros(len(points), dtype=np.int64)
    np.testing.assert_allclose(BatchCorrection.fit(points, alone).apply(points, alone), points, atol=1e-9)


def test_a_type_that_only_one_batch_has_stays_apart():
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], [300, 300, 200])
    batches = np.where(types == 2, 1, rng.integers(2, size=800))
    points = CENTRES[types] + 0.2 * rng.normal(size=(800, WIDTH)) + 0.5 * batches[:, None]
    corrected = BatchCorrection.fit(points, batches).apply(points, batches)
    to_others = [np.linalg.norm(corrected[types == 2].mean(0) - corrected[types == t].mean(0)) for t in (0, 1)]
    assert min(to_others) > 3


def test_a_new_cell_goes_where_it_would_have_gone(cells):
    points, _, batches = cells
    correction = BatchCorrection.fit(points, batches)
    together, order = correction.apply(points, batches), np.random.default_rng(1).permutation(len(points))[:50]
    np.testing.assert_allclose(correction.apply(points[order], batches[order]), together[order], atol=1e-12)


@pytest.mark.parametrize("n_cells", [1, 2, 5])
def test_few_cells_and_batches_of_one_cell_have_finite_places(n_cells):
    points, batches = np.random.default_rng(0).normal(size=(n_cells, 3)), np.arange(n_cells)
    corrected = BatchCorrection.fit(points, batches).apply(points, batches)
    assert np.isfinite(corrected).all()


def test_cells_that_are_all_alike_stay_so():
    points, batches = np.zeros((80, 3)), np.arange(80) % 2
    np.testing.assert_array_equal(BatchCorrection.fit(points, batches).apply(points, batches), points)
