from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf

LABELS = np.array(["B", "DC", "NK", "T", "monocyte"])


@pytest.fixture
def ranked() -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    cells = [f"cell {i}" for i in range(80)]
    scores = pd.DataFrame(rng.random((80, 5)), index=cells, columns=LABELS)
    return scores, pd.Series(LABELS[rng.choice(5, 80, p=[0.6, 0.2, 0.1, 0.1, 0])], index=cells)


def test_agrees_with_sorting_cell_by_cell(ranked: tuple[pd.DataFrame, pd.Series]) -> None:
    scores, truth = ranked
    places = np.array(
        [scores.loc[cell].sort_values(ascending=False).index.get_loc(truth[cell]) for cell in truth.index]
    )
    found = sf.metrics.retrieval(scores, truth, k=[1, 3])
    assert found["recall@1"] == pytest.approx((places < 1).mean())
    assert found["recall@3"] == pytest.approx((places < 3).mean())
    assert found["mrr"] == pytest.approx((1 / (places + 1)).mean())
    by_label = pd.Series(places < 3).groupby(truth.to_numpy()).mean()
    assert found["macro_recall@3"] == pytest.approx(by_label.mean())


def test_recall_at_1_is_accuracy(ranked: tuple[pd.DataFrame, pd.Series]) -> None:
    scores, truth = ranked
    accuracy = sf.metrics.annotation(truth, scores.idxmax(axis=1))["accuracy"]
    assert sf.metrics.retrieval(scores, truth)["recall@1"] == pytest.approx(accuracy)


def test_recall_grows_with_k_up_to_1(ranked: tuple[pd.DataFrame, pd.Series]) -> None:
    recalls = sf.metrics.retrieval(*ranked, k=range(1, 8)).iloc[:7]
    assert recalls.is_monotonic_increasing
    assert recalls.iloc[4:].tolist() == [1, 1, 1]


def test_scores_without_any_difference_earn_nothing() -> None:
    found = sf.metrics.retrieval(np.zeros((4, 5)), [0, 1, 2, 3], k=[1, 4, 5])
    assert found[["recall@1", "recall@4", "recall@5"]].tolist() == [0, 0, 1]


def test_the_order_of_cells_and_labels_does_not_matter(ranked: tuple[pd.DataFrame, pd.Series]) -> None:
    scores, truth = ranked
    pd.testing.assert_series_equal(
        sf.metrics.retrieval(scores.iloc[::-1, ::-1], truth.iloc[::-1]), sf.metrics.retrieval(scores, truth)
    )


def test_arrays_are_labelled_by_column_number_and_cells_without_label_are_left_out() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.4]])
    assert sf.metrics.retrieval(scores, [0, 0, None], k=[1])["recall@1"] == 0.5


def test_one_k_may_be_a_number() -> None:
    pd.testing.assert_series_equal(
        sf.metrics.retrieval(SCORES, ["B", "T"], k=1), sf.metrics.retrieval(SCORES, ["B", "T"], k=[1])
    )


def test_labels_with_a_slash_are_found_in_the_columns_that_annotation_writes() -> None:
    scores = pd.DataFrame({"T|NK": [0.9, 0.2], "B": [0.1, 0.8]})
    assert sf.metrics.retrieval(scores, ["T/NK", "B"], k=1)["recall@1"] == 1


def test_the_advice_for_labels_without_a_column_runs() -> None:
    truth = pd.Series(["B", "NK"], dtype="category")
    with pytest.raises(ValueError, match=r"known = truth.isin\(scores.columns\)"):
        sf.metrics.retrieval(SCORES, truth, k=1)
    known = truth.isin(SCORES.columns)
    assert sf.metrics.retrieval(SCORES[known], truth[known], k=2)["recall@2"] == 1


SCORES = pd.DataFrame({"B": [0.5, 0.2], "T": [0.5, 0.8]})


@pytest.mark.parametrize(
    ("scores", "truth", "k", "message"),
    [
        (SCORES, ["B"], [1], r"scores has shape \(2, 2\) and truth \(1,\)"),
        (SCORES, ["B", "T"], [0], r"k must be numbers of labels, each at least 1; got \(0,\)"),
        (SCORES, ["B", "T"], [], r"k must be numbers of labels"),
        (SCORES, ["B", "NK"], [1], r"1 of 2 cells have a true label that scores has no column for.*'NK'"),
        (SCORES, [None, None], [1], "None of the 2 cells has a label"),
        (SCORES.replace(0.2, np.nan), ["B", "T"], [1], "missing or infinite values, which have no rank"),
        (SCORES.set_axis(["B", "B"], axis=1), ["B", "B"], [1], "column 'B' more than once"),
        (SCORES, pd.Series(["B", "T"], index=[1, 0]), [1], r"truth = truth.loc\[scores.index\]"),
    ],
)
def test_bad_input_is_named_with_its_fix(scores: object, truth: object, k: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.metrics.retrieval(scores, truth, k=k)
