"""Scores of drug response by their definitions, and what constants reach."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scfoundry as sf


@pytest.fixture
def measured() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 8)) + 4 * np.arange(8) + rng.normal(size=(40, 1))
    values[rng.random(values.shape) < 0.2] = np.nan
    return pd.DataFrame(values, index=[f"line{i}" for i in range(40)], columns=[f"drug{i}" for i in range(8)])


def test_scores_are_those_of_scipy(measured: pd.DataFrame) -> None:
    rng = np.random.default_rng(1)
    predicted = measured.fillna(0) + rng.normal(size=measured.shape)
    scores = sf.metrics.drug_response(measured, predicted.iloc[::-1, ::-1]).loc["predicted"]
    here = measured.notna().to_numpy()
    y, x = measured.to_numpy()[here], predicted.to_numpy()[here]
    assert scores["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    assert scores["mae"] == pytest.approx(np.mean(np.abs(x - y)))
    assert scores["r2"] == pytest.approx(1 - np.sum((x - y) ** 2) / np.sum((y - y.mean()) ** 2))
    for axis, name in ((measured, "pearson_per_drug"), (measured.T, "pearson_per_line")):
        other = predicted if axis is measured else predicted.T
        each = [stats.pearsonr(other[c][axis[c].notna()], axis[c].dropna()).statistic for c in axis]
        assert scores[name] == pytest.approx(np.mean(each))
    assert scores["pearson"] ** 2 >= scores["r2"]
    assert scores["n_pairs"] == here.sum()


def test_after_the_mean_effects_nothing_additive_is_left(measured: pd.DataFrame) -> None:
    rng = np.random.default_rng(2)
    additive = measured * 0 + rng.normal(size=(1, 8)) + rng.normal(size=(40, 1))
    assert sf.metrics.drug_response(measured, additive).loc["predicted", "pearson_residual"] == 0
    moved = measured + rng.normal(size=(1, 8)) + rng.normal(size=(40, 1))
    scores = sf.metrics.drug_response(measured, moved).loc["predicted"]
    assert scores["pearson_residual"] == pytest.approx(1)
    assert scores["pearson"] < 1


def test_constants_are_scored_by_what_was_learned_from(measured: pd.DataFrame) -> None:
    train, test = measured.iloc[:30], measured.iloc[30:]
    scores = sf.metrics.drug_response(test, test, train=train)
    assert list(scores.index) == ["predicted", "drug mean", "drug + line mean"]
    assert scores.loc["drug mean", "pearson"] > 0.9
    assert scores.loc["drug mean", "pearson_per_drug"] == 0
    # New lines have no mean of their own.
    pd.testing.assert_series_equal(scores.loc["drug mean"], scores.loc["drug + line mean"], check_names=False)
    known = sf.metrics.drug_response(measured, measured, train=measured)
    assert known.loc["drug + line mean", "pearson_per_drug"] > 0.3


def test_what_cannot_be_scored_is_refused(measured: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="Nothing is measured"):
        sf.metrics.drug_response(measured * np.nan, measured)
    with pytest.raises(ValueError, match=r"have no finite prediction.*'line0'"):
        sf.metrics.drug_response(measured, measured.iloc[1:])
    with pytest.raises(ValueError, match="predicted holds infinite values"):
        sf.metrics.drug_response(measured, measured.replace(measured.iloc[0, 0], np.inf))
    with pytest.raises(ValueError, match="each named once"):
        sf.metrics.drug_response(pd.concat([measured, measured]), measured)
