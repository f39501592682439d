from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf


def test_probabilities_that_are_frequencies_have_next_to_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 200_000)
    scores = sf.metrics.calibration(confidence, rng.random(200_000) < confidence)
    assert scores["ece"] < 0.01
    assert abs(scores["overconfidence"]) < 0.01


def test_the_error_is_the_gap_in_every_bin_weighted_by_its_cells() -> None:
    confidence = [0.95] * 8 + [0.55] * 2
    correct = np.array([True] * 4 + [False] * 4 + [True] * 2)
    scores = sf.metrics.calibration(confidence, correct, n_bins=10)
    assert scores["ece"] == pytest.approx(0.8 * 0.45 + 0.2 * 0.45)
    assert scores["max_error"] == pytest.approx(0.45)
    assert scores["overconfidence"] == pytest.approx(0.87 - 0.6)


def test_errors_of_opposite_sign_cancel_in_one_bin_only() -> None:
    confidence, correct = [0.9, 0.1], np.array([False, True])
    assert sf.metrics.calibration(confidence, correct, n_bins=2)["ece"] == pytest.approx(0.9)
    assert sf.metrics.calibration(confidence, correct, n_bins=1)["ece"] == pytest.approx(0)


def test_the_edges_0_and_1_are_in_a_bin() -> None:
    assert sf.metrics.calibration([0.0, 1.0], np.array([False, True]))["ece"] == 0


def test_columns_of_obs_and_their_order_do_not_matter() -> None:
    confidence, correct = pd.Series([0.9, 0.7, 0.2]), pd.Series([True, False, False])
    expected = sf.metrics.calibration(confidence.to_numpy(), correct.to_numpy())
    pd.testing.assert_series_equal(sf.metrics.calibration(confidence[::-1], correct[::-1]), expected)


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_labels_of_any_kind_are_compared_as_the_messages_say(dtype: str) -> None:
    predicted, truth = pd.Series(["B", "T", "unknown"], dtype=dtype), pd.Series(["B", "B", "T"], dtype=dtype)
    assert sf.metrics.calibration([0.9, 0.8, 0.1], predicted.astype(str) == truth.astype(str))["accuracy"] == 1 / 3
    plain = predicted.astype("string") == truth.astype("string")
    assert sf.metrics.calibration([0.9, 0.8, 0.1], plain)["accuracy"] == 1 / 3


@pytest.mark.parametrize(
    ("confidence", "correct", "n_bins", "message"),
    [
        ([0.5, 0.5], [True], 15, r"confidence has shape \(2,\) and correct \(1,\)"),
        ([], [], 15, r"confidence has shape \(0,\)"),
        ([[0.5, 0.5]], [[True, False]], 15, r"one value per cell"),
        ([0.5, 1.5], [True, False], 15, r"between 0 and 1; got 0.5 to 1.5"),
        ([0.5, np.nan], [True, False], 15, r"between 0 and 1; got nan"),
        ([0.5, 0.5], ["B", "T"], 15, r"correct = predicted.astype\(str\) == truth.astype\(str\)"),
        ([0.5, 0.5], [True, False], 0, r"n_bins must be at least 1; got 0"),
    ],
)
def test_bad_input_is_named_with_its_fix(confidence: object, correct: object, n_bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.metrics.calibration(confidence, correct, n_bins=n_bins)
