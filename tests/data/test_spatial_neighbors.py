from __future__ import annotations

import numpy as np
import pytest

from scfoundry.data.matrix.contexts import Context
from scfoundry.data.matrix.spatial_neighbors import neighbor_average

SQUARE = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), axis=-1).reshape(-1, 2)


def of(xy: np.ndarray, **arguments: int) -> np.ndarray:
    return neighbor_average([Context("all", np.arange(len(xy)))], {"all": xy}, len(xy), **arguments).toarray()


def test_rows_are_averages_of_the_cell_and_its_nearest() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(size=(40, 2))
    average = of(xy, n_neighbors=6)
    assert average.dtype == np.float32
    np.testing.assert_allclose(average.sum(1), 1, rtol=1e-6)
    nearest = np.argsort(np.linalg.norm(xy[:, None] - xy, axis=-1), axis=1)[:, :7]
    expected = np.zeros((40, 40))
    np.put_along_axis(expected, nearest, 1 / 7, axis=1)
    np.testing.assert_allclose(average, expected, rtol=1e-6)


def test_cells_as_near_as_the_last_are_neighbours_too() -> None:
    """On a square grid, six neighbours are four at its sides and two of four equal ones at its corners."""
    middle = of(SQUARE)[12]
    np.testing.assert_array_equal(np.flatnonzero(middle), [6, 7, 8, 11, 12, 13, 16, 17, 18])
    np.testing.assert_allclose(middle[middle > 0], 1 / 9, rtol=1e-6)


@pytest.mark.parametrize("xy", [SQUARE, SQUARE * 1e4 + 1e5, np.random.default_rng(1).normal(size=(30, 2))])
def test_the_order_of_cells_plays_no_part(xy: np.ndarray) -> None:
    order = np.random.default_rng(2).permutation(len(xy))
    np.testing.assert_array_equal(of(xy[order]), of(xy)[np.ix_(order, order)])


def test_rotating_and_enlarging_a_tissue_changes_nothing() -> None:
    xy = np.random.default_rng(1).normal(size=(30, 2))
    turned = 50 * xy @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 1000
    np.testing.assert_array_equal(of(turned), of(xy))


def test_no_neighbourhood_reaches_over_the_border_of_a_context() -> None:
    rng = np.random.default_rng(3)
    rows = rng.permutation(20)
    groups = [Context("left", np.sort(rows[:12])), Context("right", np.sort(rows[12:]))]
    xy = rng.uniform(size=(20, 2))
    average = neighbor_average(groups, {group.name: xy[group.rows] for group in groups}, 20).toarray()
    for group in groups:
        others = np.setdiff1d(np.arange(20), group.rows)
        assert not average[np.ix_(group.rows, others)].any()
        np.testing.assert_array_equal(average[np.ix_(group.rows, group.rows)], of(xy[group.rows]))


def test_cells_without_positions_stand_for_themselves() -> None:
    groups = [Context("dissociated", np.array([0, 2])), Context("section", np.array([1, 3, 4]))]
    average = neighbor_average(groups, {"section": SQUARE[:3]}, 5, n_neighbors=1).toarray()
    np.testing.assert_array_equal(average[[0, 2]], np.eye(5)[[0, 2]])
    np.testing.assert_allclose(average[3], [0, 1 / 3, 0, 1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_contexts_smaller_than_a_neighbourhood(n_cells: int) -> None:
    np.testing.assert_allclose(of(SQUARE[:n_cells]), 1 / n_cells, rtol=1e-6)


def test_cells_at_the_same_place() -> None:
    average = of(np.zeros((100, 2)))
    np.testing.assert_allclose(average.sum(1), 1, rtol=1e-5)
    assert (average > 0).sum(1).max() <= 4 * 6
