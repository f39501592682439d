"""Scores that what perturbations have in common cannot raise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf


@pytest.fixture
def measured() -> pd.DataFrame:
    """Six profiles with a large change in common and a small one of their own."""
    rng = np.random.default_rng(0)
    common = 5 * rng.normal(size=40)
    own = rng.normal(size=(6, 40))
    return pd.DataFrame(common + own, index=[f"p{i}" for i in range(6)], columns=[f"g{i}" for i in range(40)])


def test_the_truth_is_found_and_what_all_share_is_not_enough(measured: pd.DataFrame) -> None:
    perfect = sf.metrics.perturbation_centroids(measured, measured)
    assert (perfect["centroid_accuracy"] == 1).all()
    assert perfect["pearson_perturbed"].to_numpy() == pytest.approx(1)
    shared = pd.DataFrame([measured.mean()] * 6, index=measured.index)
    shared += 0.01 * np.random.default_rng(1).normal(size=shared.shape)
    found = sf.metrics.perturbation_centroids(measured, shared)
    assert 0.3 < found["centroid_accuracy"].mean() < 0.7
    assert abs(found["pearson_perturbed"].mean()) < 0.3


def test_by_definition(measured: pd.DataFrame) -> None:
    predicted = measured.iloc[[1]] + 0.8 * np.random.default_rng(2).normal(size=(1, 40))
    found = sf.metrics.perturbation_centroids(measured, predicted).iloc[0]
    distance = np.linalg.norm(predicted.to_numpy() - measured.to_numpy(), axis=1)
    assert found["centroid_accuracy"] == np.mean([distance[1] < distance[q] for q in (0, 2, 3, 4, 5)])
    centre = measured.mean().to_numpy()
    expected = np.corrcoef(predicted.to_numpy()[0] - centre, measured.iloc[1].to_numpy() - centre)[0, 1]
    assert found["pearson_perturbed"] == pytest.approx(expected)


def test_names_decide_not_order(measured: pd.DataFrame) -> None:
    predicted = measured + 0.5 * np.random.default_rng(3).normal(size=measured.shape)
    expected = sf.metrics.perturbation_centroids(measured, predicted)
    shuffled = sf.metrics.perturbation_centroids(measured.iloc[::-1, ::-1], predicted.iloc[:, ::-1])
    pd.testing.assert_frame_equal(shuffled, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: (m.iloc[:2], m), "2 perturbations, too few"),
        (lambda m: (m, m.rename({"p0": "new"})), "1 predicted perturbations were not measured: new"),
        (lambda m: (m, m.rename(columns={"g0": "new"})), "1 predicted genes were not measured: new"),
        (lambda m: (pd.concat([m, m]), m), "Names of perturbations repeat: p0"),
        (lambda m: (m, m.mask(m > 9)), "predicted holds missing"),
    ],
)
def test_what_is_wrong_is_said(measured: pd.DataFrame, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.metrics.perturbation_centroids(*change(measured))
