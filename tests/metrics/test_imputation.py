from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cosine

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable

CONSTANT, EMPTY = 2, 5


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction, 50 cells x 8 genes; one gene is constant and not zero, one is never expressed."""
    rng = np.random.default_rng(0)
    truth = rng.poisson(1.5, (50, 8)).astype(np.float32)
    truth[:, CONSTANT], truth[:, EMPTY] = 0.1, 0
    return truth, (truth + rng.normal(size=truth.shape)).clip(min=0).astype(np.float32)


def frame(values: np.ndarray) -> pd.DataFrame:
    n_cells, n_genes = values.shape
    return pd.DataFrame(values, [f"cell{i}" for i in range(n_cells)], [f"gene{j}" for j in range(n_genes)])


def test_scores_are_those_of_every_gene_alone(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores = sf.metrics.imputation(*pair)
    for j in set(range(8)) - {CONSTANT, EMPTY}:
        x, y = (side[:, j].astype(float) for side in pair)
        mse = np.mean((x - y) ** 2)
        correlations = [stats.pearsonr(x, y)[0], stats.spearmanr(x, y)[0]]
        expected = [*correlations, 1 - cosine(x, y), np.sqrt(mse), mse, np.abs(x - y).mean(), False]
        np.testing.assert_allclose(scores.loc[j].astype(float), expected)


def test_constant_genes_are_flagged_and_do_not_poison_the_means(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores = sf.metrics.imputation(*pair)
    assert scores.index[scores["constant"]].tolist() == [CONSTANT, EMPTY]
    assert scores["pearson"].isna().tolist() == scores["constant"].tolist()
    assert scores.index[scores["cosine"].isna()].tolist() == [EMPTY]
    summary = sf.metrics.summarise(scores)
    assert summary["pearson"] == pytest.approx(scores["pearson"].drop([CONSTANT, EMPTY]).mean())
    assert summary["rmse"] == pytest.approx(scores["rmse"].mean())
    assert (summary["n_genes"], summary["n_constant"]) == (8, 2)


def test_a_constant_prediction_has_no_correlation_either(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores = sf.metrics.imputation(pair[0], np.full_like(pair[1], 0.3))
    assert scores["constant"].all()
    assert scores["pearson"].isna().all()
    assert np.isnan(sf.metrics.summarise(scores)["pearson"])


def test_log1p_is_taken_of_both_sides(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = (side.astype(float) for side in pair)
    logged = sf.metrics.imputation(np.log1p(truth), np.log1p(predicted))
    pd.testing.assert_frame_equal(sf.metrics.imputation(truth, predicted, log1p=True), logged)


def test_negative_predictions_count_as_zero(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    expected = sf.metrics.imputation(truth, predicted)
    pd.testing.assert_frame_equal(sf.metrics.imputation(truth, np.where(predicted == 0, -3, predicted)), expected)


def test_the_array_type_does_not_matter(pair: tuple[np.ndarray, np.ndarray], as_array: Callable) -> None:
    truth, predicted = pair
    expected = sf.metrics.imputation(truth, predicted)
    pd.testing.assert_frame_equal(sf.metrics.imputation(as_array(truth), as_array(predicted)), expected)
    pd.testing.assert_frame_equal(sf.metrics.imputation(as_array(truth), predicted), expected)


def test_the_block_size_does_not_matter(pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sf.metrics.imputation(*pair)
    monkeypatch.setattr("scfoundry.metrics._matrices._BLOCK_VALUES", 3 * len(pair[0]))
    pd.testing.assert_frame_equal(sf.metrics.imputation(*pair), expected)


def test_genes_are_matched_by_name(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = map(frame, pair)
    expected = sf.metrics.imputation(truth, predicted)
    assert expected.index.tolist() == truth.columns.tolist()
    more = predicted.iloc[:, ::-1].assign(never_measured=1.0)
    pd.testing.assert_frame_equal(sf.metrics.imputation(truth, more), expected)
    pd.testing.assert_frame_equal(sf.metrics.imputation(pair[0], predicted), expected)


def test_bad_matrices_are_named_with_their_fix(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    with pytest.raises(ValueError, match=r"predicted has shape \(50, 7\) but truth has \(50, 8\)"):
        sf.metrics.imputation(truth, predicted[:, :7])
    with pytest.raises(ValueError, match=r"truth has 1 dimension\(s\), but must be cells x genes"):
        sf.metrics.imputation(truth[:, 0], predicted[:, 0])
    with pytest.raises(ValueError, match=r"there is no gene or no cell to score"):
        sf.metrics.imputation(truth[:, :0], predicted[:, :0])
    with pytest.raises(ValueError, match=r"truth holds negative values \(lowest: -1\).*scaled data"):
        sf.metrics.imputation(np.where(truth == 0, -1, truth), predicted)
    with pytest.raises(ValueError, match="predicted holds missing or infinite values"):
        sf.metrics.imputation(truth, np.where(predicted == 0, np.nan, predicted))


def test_bad_frames_are_named_with_their_fix(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = map(frame, pair)
    with pytest.raises(ValueError, match="predicted lacks 2 of the 8 genes of truth: gene0, gene1"):
        sf.metrics.imputation(truth, predicted.iloc[:, 2:])
    with pytest.raises(ValueError, match=r"predicted = predicted\.loc\[truth\.index\]"):
        sf.metrics.imputation(truth, predicted.iloc[::-1])
    with pytest.raises(ValueError, match="1 gene names occur more than once in predicted, for example 'gene0'"):
        sf.metrics.imputation(truth, predicted.rename(columns={"gene1": "gene0"}))
    with pytest.raises(ValueError, match=r"Pass what sf\.metrics\.imputation"):
        sf.metrics.summarise(truth)
