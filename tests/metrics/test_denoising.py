from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf

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
    scores = sf.metrics.denoising(counts, predicted, mask)
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
    scores = sf.metrics.denoising(counts, counts, mask)
    errors = scores.index.str.contains("rmse|mae")
    np.testing.assert_array_equal(scores[errors], 0)
    np.testing.assert_allclose(scores[~errors], 1)


def test_the_scale_of_a_predicted_cell_does_not_matter(case: Case) -> None:
    counts, predicted, mask = case
    factors = np.random.default_rng(1).uniform(0.1, 1000, (len(counts), 1))
    expected = sf.metrics.denoising(counts, predicted, mask)
    pd.testing.assert_series_equal(sf.metrics.denoising(counts, predicted * factors, mask), expected)


def test_only_hidden_entries_enter_the_pooled_scores(case: Case) -> None:
    counts, predicted, mask = case
    shuffled = predicted.copy()
    for row, hidden in zip(shuffled, mask, strict=True):
        row[~hidden] = row[~hidden][::-1]
    before, after = (sf.metrics.denoising(counts, p, mask) for p in (predicted, shuffled))
    np.testing.assert_allclose(before[:4], after[:4], rtol=1e-6)
    assert not np.isclose(before[4:], after[4:]).any()


def test_negative_predictions_count_as_zero(case: Case) -> None:
    counts, predicted, mask = case
    low = predicted < 0.5
    expected = sf.metrics.denoising(counts, np.where(low, 0, predicted), mask)
    pd.testing.assert_series_equal(sf.metrics.denoising(counts, np.where(low, -7, predicted), mask), expected)


def test_cells_without_counts_do_not_poison_the_scores(case: Case) -> None:
    counts, predicted, mask = (np.vstack([m, np.zeros_like(m[:1])]) for m in case)
    scores = sf.metrics.denoising(counts, predicted, mask)
    assert scores.notna().all()
    np.testing.assert_allclose(scores[:4], sf.metrics.denoising(*case)[:4])


def test_the_array_type_does_not_matter(case: Case, as_array: Callable) -> None:
    counts, predicted, mask = case
    expected = sf.metrics.denoising(*case)
    got = sf.metrics.denoising(as_array(counts), as_array(predicted), as_array(mask))
    pd.testing.assert_series_equal(got, expected)
    pd.testing.assert_series_equal(sf.metrics.denoising(as_array(counts), predicted, mask), expected)


def test_the_block_size_does_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sf.metrics.denoising(*case)
    monkeypatch.setattr("scfoundry.metrics._matrices._BLOCK_VALUES", 7 * case[0].shape[1])
    pd.testing.assert_series_equal(sf.metrics.denoising(*case), expected)


def test_genes_are_matched_by_name(case: Case) -> None:
    frames = [pd.DataFrame(values, columns=[f"gene{j}" for j in range(20)]) for values in case]
    counts, predicted, mask = frames
    got = sf.metrics.denoising(counts, predicted.iloc[:, ::-1], mask.sample(frac=1, axis=1, random_state=0))
    pd.testing.assert_series_equal(got, sf.metrics.denoising(*case))


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
