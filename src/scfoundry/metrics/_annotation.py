"""Scores of predicted cell types, under the names they deserve (Wen et al. 2024, Table 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from sklearn.metrics import matthews_corrcoef

from scfoundry.metrics._matrices import labelled_cells, require_same_cells

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["annotation", "annotation_by_class"]


def annotation(truth: ArrayLike, predicted: ArrayLike) -> pd.Series:
    r"""Accuracy and macro-averaged F1, precision and recall of predicted labels.

    With :math:`t_c` cells of class :math:`c` predicted as such, :math:`n_c` cells that are :math:`c` and :math:`m_c`
    that are predicted as :math:`c`,

    .. math::

        \text{precision}_c = \frac{t_c}{m_c},\qquad \text{recall}_c = \frac{t_c}{n_c},\qquad
        \text{F1}_c = \frac{2 t_c}{n_c + m_c},

    each 0 where its denominator is. Macro averages give every class present in the truth **or** in the prediction the
    same weight: a class that is predicted but never true lowers them, a declared category that nobody has does not.
    What CellPLM :cite:p:`wen2024cellplm` reports as "acc" is ``macro_recall``. ``balanced_accuracy`` is the mean recall
    of the classes in the truth alone. ``mcc`` is Matthews' correlation of both columns, 0 for guesses whatever
    the sizes of classes, 1 if all are right.

    Parameters
    ----------
    truth
        Label of every cell, (n_cells,). Cells without one (missing values) are left out.
    predicted
        Predicted label of every cell, (n_cells,). A missing value is a wrong prediction of no class.

    Returns
    -------
    ``accuracy``, ``macro_f1``, ``macro_precision``, ``macro_recall`` and ``balanced_accuracy``, each between 0 and 1,
    and ``mcc``, between -1 and 1.

    Raises
    ------
    ValueError
        If the two differ in length or order of cells, no cell has a label, or one holds names and the other numbers.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.metrics.annotation(["B", "B", "T", "NK"], ["B", "T", "T", "T"]).round(3)
    accuracy             0.500
    macro_f1             0.389
    macro_precision      0.444
    macro_recall         0.500
    balanced_accuracy    0.500
    mcc                  0.387
    dtype: float64
    """
    true_codes, guessed_codes, classes = _codes(truth, predicted)
    scores = _by_class(true_codes, guessed_codes, classes)
    means = scores[["f1", "precision", "recall"]].mean()
    return pd.Series(
        {
            "accuracy": (true_codes == guessed_codes).mean(),
            **means.add_prefix("macro_").to_dict(),
            "balanced_accuracy": scores.loc[scores["n_cells"] > 0, "recall"].mean(),
            # A missing prediction is a class of its own.
            "mcc": float(matthews_corrcoef(true_codes, guessed_codes)),
        }
    )


def annotation_by_class(truth: ArrayLike, predicted: ArrayLike) -> pd.DataFrame:
    r"""F1, precision, recall, balanced accuracy and Matthews' correlation of every class against all others.

    Parameters
    ----------
    truth
        Label of every cell, (n_cells,). Cells without one (missing values) are left out.
    predicted
        Predicted label of every cell, (n_cells,). A missing value is a wrong prediction of no class.

    Returns
    -------
    One row per class present in the truth or in the prediction, the most frequent first: ``n_cells`` that are of it,
    ``f1``, ``precision``, ``recall``, ``balanced_accuracy`` (mean of the shares found of its cells and of all others)
    and ``mcc``, the correlation of being of the class and being called so; each 0 where its denominator is.

    Raises
    ------
    ValueError
        As `annotation` does.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.metrics.annotation_by_class(["B", "B", "T", "NK"], ["B", "T", "T", "T"]).round(3)
        n_cells     f1  precision  recall  balanced_accuracy    mcc
    B         2  0.667      1.000     0.5              0.750  0.577
    T         1  0.500      0.333     1.0              0.667  0.333
    NK        1  0.000      0.000     0.0              0.500  0.000
    """
    found = _by_class(*_codes(truth, predicted))
    return found.sort_values("n_cells", ascending=False, kind="stable")


def _codes(truth: ArrayLike, predicted: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], pd.Index]:
    """Numbers of true and predicted classes, -1 for a missing prediction, of cells with a label; and the classes."""
    require_same_cells(truth, predicted, names=("truth", "predicted"))
    true, guessed = _labels(truth, name="truth"), _labels(predicted, name="predicted")
    if len(true) != len(guessed):
        msg = (
            f"truth has {len(true)} labels but predicted has {len(guessed)}; both need one per cell, in one order: "
            "predicted = predicted.loc[truth.index]."
        )
        raise ValueError(msg)
    labelled = labelled_cells(true)
    true, guessed = true[labelled], guessed[labelled]
    if guessed.notna().any() and _numbered(true) != _numbered(guessed):
        names, codes = ("truth", "predicted") if _numbered(guessed) else ("predicted", "truth")
        msg = (
            f"{names} holds names but {codes} holds numbers, so no prediction could be right. Turn the codes into "
            f"names first: {codes} = np.asarray(classes)[{codes}], classes being the labels in order of their codes."
        )
        raise ValueError(msg)

    codes, classes = pd.factorize(pd.concat([true, guessed]))
    true_codes, guessed_codes = codes[: len(true)], codes[len(true) :]
    return true_codes, guessed_codes, pd.Index(classes)


def _by_class(true: NDArray[np.int64], guessed: NDArray[np.int64], classes: pd.Index) -> pd.DataFrame:
    n_true = np.bincount(true, minlength=len(classes))
    n_guessed = np.bincount(guessed[guessed >= 0], minlength=len(classes))
    n_correct = np.bincount(true[true == guessed], minlength=len(classes))
    n_other, n_wrongly = len(true) - n_true, n_guessed - n_correct
    recall = n_correct / np.maximum(n_true, 1)
    specificity = 1 - n_wrongly / np.maximum(n_other, 1)
    covariance = n_correct * len(true) - n_true.astype(np.float64) * n_guessed
    spread = np.sqrt(n_true.astype(np.float64) * n_other * n_guessed * (len(true) - n_guessed))
    scores = {
        "n_cells": n_true,
        "f1": 2 * n_correct / (n_true + n_guessed),
        "precision": n_correct / np.maximum(n_guessed, 1),
        "recall": recall,
        "balanced_accuracy": (recall + specificity) / 2,
        "mcc": np.divide(covariance, spread, out=np.zeros(len(classes)), where=spread > 0),
    }
    return pd.DataFrame(scores, index=classes)


def _labels(values: ArrayLike, *, name: str) -> pd.Series:
    if np.ndim(values) != 1:
        msg = f"{name} has shape {np.shape(values)}, but one label per cell is needed. Pass a column: obs['cell_type']."
        raise ValueError(msg)
    return pd.Series(values, dtype=object).reset_index(drop=True)


def _numbered(labels: pd.Series) -> bool:
    inferred = labels.dropna().infer_objects()
    return is_numeric_dtype(inferred) and not is_bool_dtype(inferred)
