from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_recall_fscore_support, recall_score

import scfoundry as sf

CELL_TYPES = np.array(["B cell", "CD4 T cell", "CD8 T cell", "monocyte", "NK cell"])


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = CELL_TYPES[rng.choice(5, 200, p=[0.5, 0.3, 0.15, 0.05, 0])]
    return truth, np.where(rng.random(200) < 0.7, truth, rng.choice(CELL_TYPES, 200))


def test_agrees_with_scikit_learn(labels: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = labels
    scores = sf.metrics.annotation(truth, predicted)
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
    expected = {
        "accuracy": accuracy_score(truth, predicted),
        "macro_f1": f1,
        "macro_precision": precision,
        "macro_recall": recall,
        "balanced_accuracy": recall_score(truth, predicted, average=None, labels=np.unique(truth)).mean(),
        "mcc": matthews_corrcoef(truth, predicted),
    }
    pd.testing.assert_series_equal(scores, pd.Series(expected))


def test_accuracy_and_macro_recall_differ_when_classes_are_unbalanced() -> None:
    scores = sf.metrics.annotation(["T"] * 9 + ["B"], ["T"] * 10)
    assert scores["accuracy"] == pytest.approx(0.9)
    assert scores["macro_recall"] == pytest.approx(0.5)


def test_a_class_that_is_predicted_but_never_true_lowers_macro_scores() -> None:
    assert sf.metrics.annotation(["B", "B", "T"], ["B", "NK", "T"])["macro_recall"] == pytest.approx((0.5 + 1 + 0) / 3)


@pytest.mark.parametrize("as_labels", [list, np.asarray, pd.Series, pd.Categorical])
def test_the_container_does_not_matter(labels: tuple[np.ndarray, np.ndarray], as_labels: type) -> None:
    expected = sf.metrics.annotation(*labels)
    pd.testing.assert_series_equal(sf.metrics.annotation(*map(as_labels, labels)), expected)


def test_declared_categories_that_nobody_has_do_not_count(labels: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = (pd.Categorical(side, [*CELL_TYPES, "platelet"]) for side in labels)
    pd.testing.assert_series_equal(sf.metrics.annotation(truth, predicted), sf.metrics.annotation(*labels))


def test_cells_without_a_true_label_are_left_out() -> None:
    scores = sf.metrics.annotation(pd.Categorical(["B", None, "T"]), ["B", "B", "T"])
    pd.testing.assert_series_equal(scores, sf.metrics.annotation(["B", "T"], ["B", "T"]))


def test_a_missing_prediction_is_wrong_and_adds_no_class() -> None:
    scores = sf.metrics.annotation(["B", "B", "T"], ["B", None, "T"])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["macro_recall"] == pytest.approx((0.5 + 1) / 2)
    assert scores["macro_precision"] == pytest.approx(1)


def test_codes_with_missing_values_are_codes() -> None:
    assert sf.metrics.annotation(pd.Categorical([0, 1, None]), [0, 1, 1])["accuracy"] == 1


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (["B", "T"], ["B"], "truth has 2 labels but predicted has 1"),
        ([None, None], ["B", "T"], "None of the 2 cells has a label"),
        (["B", "T"], [0, 1], r"predicted = np.asarray\(classes\)\[predicted\]"),
        ([0, 1], pd.Categorical(["B", "T"]), r"truth = np.asarray\(classes\)\[truth\]"),
        (["B", "T"], np.eye(2), r"predicted has shape \(2, 2\)"),
        (pd.Series(["B", "T"]), pd.Series(["T", "B"], index=[1, 0]), r"predicted = predicted.loc\[truth.index\]"),
    ],
)
def test_bad_input_is_named_with_its_fix(truth: object, predicted: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.metrics.annotation(truth, predicted)


def test_scores_of_classes_have_the_macro_averages_as_means():
    truth = ["B", "B", None, "T", "NK", "T", "T"]
    predicted = ["B", "T", "T", "T", None, "mast", "T"]
    by_class = sf.metrics.annotation_by_class(truth, predicted)
    assert by_class["n_cells"].to_dict() == {"T": 3, "B": 2, "NK": 1, "mast": 0}
    assert by_class["n_cells"].is_monotonic_decreasing
    whole = sf.metrics.annotation(truth, predicted)
    for score in ("f1", "precision", "recall"):
        assert by_class[score].mean() == pytest.approx(whole[f"macro_{score}"])
    expected = {"n_cells": 2, "f1": 2 / 3, "precision": 1, "recall": 0.5, "balanced_accuracy": 0.75}
    labelled = [(t == "B", p == "B") for t, p in zip(truth, predicted, strict=True) if t is not None]
    expected["mcc"] = matthews_corrcoef(*zip(*labelled, strict=True))
    assert by_class.loc["B"].to_dict() == pytest.approx(expected)
