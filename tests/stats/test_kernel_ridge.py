"""Closed forms against what they stand for: fits without a row, and conditional normal distributions."""

from __future__ import annotations

import numpy as np
import pytest

from scfoundry.stats import kernel_ridge
from scfoundry.stats.completion import covariance, expected
from scfoundry.stats.kernel_ridge import KernelRidge, correlations, distances


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 8))


def test_a_row_left_out_is_predicted_as_by_a_fit_without_it(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    targets = rows[:, :3] @ rng.normal(size=(3, 2)) + rng.normal(size=(30, 2))
    # One penalty in absolute terms, whatever the rows.
    centred = rows - rows.mean(0)
    monkeypatch.setattr(kernel_ridge, "PENALTIES", np.array([3.0]) / (np.trace(centred @ centred.T) / 30))
    left_out = KernelRidge.fit(rows @ rows.T, targets)[1]
    for i in range(3):
        others = np.delete(rows, i, axis=0)
        x = others - others.mean(0)
        weights = np.linalg.solve(x.T @ x + 3 * np.eye(8), x.T @ np.delete(targets, i, axis=0))
        expected_row = np.delete(targets, i, axis=0).mean(0) + (rows[i] - others.mean(0)) @ weights
        np.testing.assert_allclose(left_out[i], expected_row)


def test_a_linear_kernel_finds_a_linear_function_and_noise_gets_its_mean(rows: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    truth = np.column_stack([rows @ np.arange(8.0) + 5, rng.normal(size=30) + 7])
    ridge, left_out = KernelRidge.fit(rows @ rows.T, truth)
    new = rng.normal(size=(10, 8))
    found = ridge.predict(new @ rows.T)
    np.testing.assert_allclose(found[:, 0], new @ np.arange(8.0) + 5, atol=0.2)
    assert np.abs(found[:, 1] - 7).max() < 1
    assert np.corrcoef(left_out[:, 0], truth[:, 0])[0, 1] > 0.99
    same = KernelRidge.from_arrays(ridge.arrays())
    np.testing.assert_array_equal(same.predict(new @ rows.T), found)


def test_distances_and_correlations(rows: np.ndarray) -> None:
    np.testing.assert_allclose(distances(rows[:3], rows)[1, 5], np.sum((rows[1] - rows[5]) ** 2))
    np.testing.assert_allclose(correlations(rows[:3], rows)[1, 5], np.corrcoef(rows[1], rows[5])[0, 1])
    assert (correlations(np.ones((1, 8)), rows) == 0).all()


def test_missing_values_are_expected_as_a_normal_distribution_says() -> None:
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(5, 5))
    cov, mean = factors @ factors.T + np.eye(5), rng.normal(size=(1, 5))
    row = rng.normal(size=(1, 5))
    row[0, [1, 3]] = np.nan
    found = expected(row, mean, cov)[0]
    seen = [0, 2, 4]
    solved = np.linalg.solve(cov[np.ix_(seen, seen)], (row - mean)[0, seen])
    np.testing.assert_allclose(found[[1, 3]], mean[0, [1, 3]] + cov[np.ix_([1, 3], seen)] @ solved)
    # A measured value is expected from the others.
    without = row.copy()
    without[0, 2] = np.nan
    np.testing.assert_allclose(found[2], expected(without, mean, cov)[0, 2])


def test_a_covariance_of_few_incomplete_rows_predicts() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 12)) + 0.3 * rng.normal(size=(80, 12))
    shown = np.where(rng.random(truth.shape) < 0.3, np.nan, truth)
    found = covariance(shown)
    assert np.linalg.eigvalsh(found).min() > 0
    guess = expected(shown, np.zeros_like(shown), found)
    hidden = np.isnan(shown)
    assert np.corrcoef(guess[hidden], truth[hidden])[0, 1] > 0.85
