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


@pytest.fixture
def section() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expression with a gradient over a square of 100 spots in 4 genes, library sizes, coordinates."""
    rng = np.random.default_rng(1)
    xy = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    library = rng.lognormal(7, 0.5, 100)
    gradient = np.stack([xy[:, 0], xy[:, 1], xy.sum(1), 9 - xy[:, 0]], axis=1) + 1
    return rng.poisson(gradient * library[:, None] / 1000).astype(float), library, xy


def test_partial_pearson_is_what_the_library_does_not_explain(section: tuple[np.ndarray, ...]) -> None:
    truth, library, xy = section
    alone = np.repeat(library[:, None], 4, axis=1)
    scores = sf.metrics.imputation(truth, alone, log1p=True, library=library)
    assert (scores["pearson"] > 0.2).all()
    assert (scores["partial_pearson"] == 0).all()
    informed = alone * (xy[:, [0]] + 1)
    scores = sf.metrics.imputation(truth, informed, log1p=True, library=pd.Series(library))
    assert scores["partial_pearson"].iloc[0] > 0.5
    assert scores["partial_pearson"].iloc[3] < -0.5
    assert "partial_pearson" not in sf.metrics.imputation(truth, alone)
    np.testing.assert_allclose(sf.metrics.imputation(truth, truth, library=library)["partial_pearson"], 1)


def test_constant_genes_have_no_partial_pearson_either(section: tuple[np.ndarray, ...]) -> None:
    truth, library, _ = section
    truth[:, 2] = 0
    scores = sf.metrics.imputation(truth, truth + library[:, None], library=library)
    assert scores["partial_pearson"].isna().tolist() == scores["constant"].tolist() == [False, False, True, False]
    assert np.isfinite(sf.metrics.summarise(scores)["partial_pearson"])


def test_structure_is_one_for_the_same_picture_on_any_scale(section: tuple[np.ndarray, ...]) -> None:
    truth, _, xy = section
    rng = np.random.default_rng(2)
    np.testing.assert_allclose(sf.metrics.imputation(truth, truth, positions=xy)["structure"], 1)
    np.testing.assert_allclose(sf.metrics.imputation(truth, 0.01 * truth, positions=xy)["structure"], 1, rtol=1e-6)
    shuffled = sf.metrics.imputation(truth, rng.permutation(truth), positions=xy)["structure"]
    noisy = sf.metrics.imputation(truth, rng.poisson(truth).astype(float), positions=xy)["structure"]
    assert (shuffled < noisy).all()
    assert (noisy < 0.95).all()


def test_structure_knows_where_spots_lie_and_not_their_order(section: tuple[np.ndarray, ...]) -> None:
    truth, library, xy = section
    predicted = truth + np.random.default_rng(3).poisson(2.0, truth.shape)
    expected = sf.metrics.imputation(truth, predicted, positions=xy, library=library)
    order = np.random.default_rng(4).permutation(100)
    moved = sf.metrics.imputation(truth[order], predicted[order], positions=xy[order], library=library[order])
    pd.testing.assert_frame_equal(moved, expected)
    elsewhere = sf.metrics.imputation(truth, predicted, positions=xy[order])
    assert np.abs(elsewhere["structure"] - expected["structure"]).max() > 1e-3


def test_sections_are_pictures_of_their_own(section: tuple[np.ndarray, ...]) -> None:
    """Two sections with the same coordinates score as if the second lay far away."""
    truth, _, xy = section
    rng = np.random.default_rng(5)
    both, predicted = np.vstack([truth, truth[::-1]]), rng.poisson(np.vstack([truth, truth]) + 1).astype(float)
    names = np.repeat(["A1", "B1"], 100)
    overlapping, apart = np.vstack([xy, xy]), np.vstack([xy, xy + 1e4])
    expected = sf.metrics.imputation(both, predicted, positions=apart)
    by_section = sf.metrics.imputation(both, predicted, positions=overlapping, sections=pd.Series(names))
    pd.testing.assert_frame_equal(by_section, expected)
    mixed = sf.metrics.imputation(both, predicted, positions=overlapping)
    assert np.abs(mixed["structure"] - expected["structure"]).max() > 1e-3


def test_the_array_type_and_block_size_do_not_matter_to_the_further_scores(
    section: tuple[np.ndarray, ...], as_array: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, library, xy = section
    predicted = np.random.default_rng(6).poisson(truth).astype(float)
    expected = sf.metrics.imputation(truth, predicted, library=library, positions=xy)
    monkeypatch.setattr("scfoundry.metrics._matrices._BLOCK_VALUES", 3 * len(truth))
    scores = sf.metrics.imputation(as_array(truth), as_array(predicted), library=library, positions=xy)
    pd.testing.assert_frame_equal(scores, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"library": np.ones(99)}, r"library has shape \(99,\), but must be one finite number for each of the 100"),
        ({"library": np.ones((100, 1))}, r"library has shape \(100, 1\)"),
        ({"library": np.full(100, np.nan)}, r"library has shape \(100,\), but must be one finite number"),
        ({"positions": np.ones((100, 3))}, r'positions has shape \(100, 3\).*adata.obsm\["spatial"\]\[:, :2\]'),
        ({"positions": np.ones((99, 2))}, r"positions has shape \(99, 2\)"),
        ({"positions": np.full((100, 2), np.inf)}, r"positions has shape .* must be finite"),
        ({"positions": np.ones((100, 2)), "sections": ["A1"]}, r"sections has 1 values, but truth has 100 cells"),
    ],
)
def test_bad_sizes_and_places_are_named(
    section: tuple[np.ndarray, ...], arguments: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sf.metrics.imputation(section[0], section[0], **arguments)
