from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf
from scfoundry.metrics._denoising import _constants

if TYPE_CHECKING:
    from collections.abc import Callable

Case = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture
def case() -> Case:
    """Counts, denoised counts and hidden entries, 30 cells x 20 genes."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.5, (30, 20)).astype(np.float32)
    return counts, rng.gamma(2, 1, counts.shape).astype(np.float32), (counts > 0) & (rng.random(counts.shape) < 0.2)


def test_scores_are_the_stated_formulas(case: Case) -> None:
    counts, predicted, mask = case
    x, y = (np.log1p(1e4 * m.astype(float) / m.sum(1, keepdims=True)) for m in (counts, predicted))
    a, b = x[mask], y[mask]
    scores = sf.metrics.denoising(counts, predicted, mask).loc["predicted"]
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
    assert scores["mae"] == pytest.approx(np.mean(np.abs(a - b)))
    assert scores["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert scores["cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert scores["rmse_all"] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    assert scores["pearson_all"] == pytest.approx(
        np.mean([np.corrcoef(*rows)[0, 1] for rows in zip(x, y, strict=True)])
    )


def test_the_truth_itself_is_perfect(case: Case) -> None:
    counts, _, mask = case
    scores = sf.metrics.denoising(counts, counts, mask).loc["predicted"]
    errors = scores.index.str.contains("rmse|mae")
    np.testing.assert_array_equal(scores[errors], 0)
    np.testing.assert_allclose(scores[~errors], 1)


def test_the_scale_of_a_predicted_cell_does_not_matter(case: Case) -> None:
    counts, predicted, mask = case
    factors = np.random.default_rng(1).uniform(0.1, 1000, (len(counts), 1))
    expected = sf.metrics.denoising(counts, predicted, mask)
    pd.testing.assert_frame_equal(sf.metrics.denoising(counts, predicted * factors, mask), expected)


def test_only_hidden_entries_enter_the_pooled_scores(case: Case) -> None:
    counts, predicted, mask = case
    shuffled = predicted.copy()
    for row, hidden in zip(shuffled, mask, strict=True):
        row[~hidden] = row[~hidden][::-1]
    before, after = (sf.metrics.denoising(counts, p, mask).loc["predicted"] for p in (predicted, shuffled))
    np.testing.assert_allclose(before[:4], after[:4], rtol=1e-6)
    assert not np.isclose(before[4:], after[4:]).any()


def test_negative_predictions_count_as_zero(case: Case) -> None:
    counts, predicted, mask = case
    low = predicted < 0.5
    expected = sf.metrics.denoising(counts, np.where(low, 0, predicted), mask)
    pd.testing.assert_frame_equal(sf.metrics.denoising(counts, np.where(low, -7, predicted), mask), expected)


def test_cells_without_counts_do_not_poison_the_scores(case: Case) -> None:
    counts, predicted, mask = (np.vstack([m, np.zeros_like(m[:1])]) for m in case)
    scores = sf.metrics.denoising(counts, predicted, mask)
    assert scores.loc["predicted"].notna().all()
    np.testing.assert_allclose(scores.iloc[:, :4], sf.metrics.denoising(*case).iloc[:, :4])


def test_constants_stand_beside_the_method(case: Case) -> None:
    counts, predicted, mask = case
    scores = sf.metrics.denoising(counts, predicted, mask)
    assert list(scores.index) == ["predicted", "count of 1", "gene mean of non-zeros", "gene mean"]
    totals = counts.sum(1, keepdims=True).astype(float)
    truth = np.log1p(1e4 * counts / totals)
    seen = np.where(mask, 0, counts).astype(float)
    guesses = {
        "count of 1": np.log1p(1e4 / totals) + np.zeros_like(truth),
        "gene mean of non-zeros": np.log1p(1e4 * seen.sum(0) / (seen > 0).sum(0) / totals),
        "gene mean": np.log1p(1e4 * seen.sum(0) / seen.sum()) + np.zeros_like(truth),
    }
    for name, guess in guesses.items():
        assert scores.loc[name, "rmse"] == pytest.approx(np.sqrt(np.mean((truth - guess)[mask] ** 2)))
        assert scores.loc[name, "mae_all"] == pytest.approx(np.mean(np.abs(truth - guess)))


def test_constants_know_nothing_of_hidden_entries(case: Case) -> None:
    counts, _, mask = case
    changed = np.where(mask, counts[:, ::-1] + 3, counts)
    for before, after in zip(_constants(counts, mask).values(), _constants(changed, mask).values(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_counts_expected_given_detection_stand_on_the_scale_of_the_counts(case: Case) -> None:
    counts, _, mask = case
    expected = np.maximum(counts, 1)
    scores = sf.metrics.denoising(counts, expected, mask, given_detected=True)
    assert scores.loc["predicted", "rmse"] == 0
    assert list(scores.columns) == ["rmse", "mae", "pearson", "cosine"]
    assert sf.metrics.denoising(counts, expected, mask).loc["predicted", "rmse"] > 0.1
    ones = sf.metrics.denoising(counts, np.ones_like(counts), mask, given_detected=True)
    np.testing.assert_allclose(ones.loc["predicted"], ones.loc["count of 1"])


def test_the_array_type_does_not_matter(case: Case, as_array: Callable) -> None:
    counts, predicted, mask = case
    expected = sf.metrics.denoising(*case)
    got = sf.metrics.denoising(as_array(counts), as_array(predicted), as_array(mask))
    pd.testing.assert_frame_equal(got, expected)
    pd.testing.assert_frame_equal(sf.metrics.denoising(as_array(counts), predicted, mask), expected)


def test_the_block_size_does_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sf.metrics.denoising(*case)
    monkeypatch.setattr("scfoundry.metrics._matrices._BLOCK_VALUES", 7 * case[0].shape[1])
    pd.testing.assert_frame_equal(sf.metrics.denoising(*case), expected)


def test_genes_are_matched_by_name(case: Case) -> None:
    frames = [pd.DataFrame(values, columns=[f"gene{j}" for j in range(20)]) for values in case]
    counts, predicted, mask = frames
    got = sf.metrics.denoising(counts, predicted.iloc[:, ::-1], mask.sample(frac=1, axis=1, random_state=0))
    pd.testing.assert_frame_equal(got, sf.metrics.denoising(*case))


def test_bad_input_is_named_with_its_fix(case: Case) -> None:
    counts, predicted, mask = case
    with pytest.raises(ValueError, match=r"mask = mask\.astype\(bool\)"):
        sf.metrics.denoising(counts, predicted, mask.astype(int))
    with pytest.raises(ValueError, match="mask marks no entry as hidden"):
        sf.metrics.denoising(counts, predicted, np.zeros_like(mask))
    with pytest.raises(ValueError, match=r'not the matrix the method was given \(layers\["train"\]\)'):
        sf.metrics.denoising(np.where(mask, 0, counts), predicted, mask)
    with pytest.raises(ValueError, match=r"counts holds negative values \(lowest: -1\)"):
        sf.metrics.denoising(counts - 1, predicted, mask)
    with pytest.raises(ValueError, match="predicted holds missing or infinite values"):
        sf.metrics.denoising(counts, np.where(mask, np.nan, predicted), mask)
    with pytest.raises(ValueError, match=r"mask has shape \(29, 20\) but counts has \(30, 20\)"):
        sf.metrics.denoising(counts, predicted, mask[1:])
