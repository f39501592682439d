"""How early the right text comes in the ranking of a cell (Zhao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._arguments import quoted
from scfoundry.metrics._matrices import labelled_cells, require_same_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["retrieval"]


def retrieval(
    scores: pd.DataFrame | np.ndarray, truth: ArrayLike, *, k: int | Sequence[int] = (1, 5, 10, 20)
) -> pd.Series:
    r"""Recall at k and mean reciprocal rank of the true label.

    The rank :math:`r_i` of cell :math:`i` is the number of labels that score at least as high as its true one, which
    counts itself: of equal scores the true one is taken as the last, so that scores without any difference earn
    nothing.

    .. math::

        \text{recall@}k = \frac{1}{n}\sum_i [r_i \le k],\qquad \text{mrr} = \frac{1}{n}\sum_i \frac{1}{r_i}.

    LangCell :cite:p:`zhao2024langcell` reports ``recall@k`` over cells; ``macro_recall@k`` gives every label that
    occurs the same weight.

    Parameters
    ----------
    scores
        Score of every label for every cell, (n_cells, n_labels), columns named by label; higher is better. A label with
        a slash is found in the column with a bar, ``"T/NK"`` in ``"T|NK"``, as annotation writes it. An array has its
        column numbers as labels.
    truth
        True label of every cell, (n_cells,). Cells without one (missing values) are left out.
    k
        How many labels of a cell are looked at, one number or several.

    Returns
    -------
    ``recall@k`` for every k, ``macro_recall@k`` for every k, ``mrr`` and ``macro_mrr``, each between 0 and 1.

    Raises
    ------
    ValueError
        If cells do not match, labels of `truth` or scores are missing, label names repeat, or a k is below 1.

    Examples
    --------
    >>> import pandas as pd, scfoundry as sf
    >>> scores = pd.DataFrame({"B": [0.7, 0.5], "T": [0.2, 0.4], "NK": [0.1, 0.1]})
    >>> sf.metrics.retrieval(scores, ["B", "T"], k=[1, 2])
    recall@1          0.50
    recall@2          1.00
    macro_recall@1    0.50
    macro_recall@2    1.00
    mrr               0.75
    macro_mrr         0.75
    dtype: float64
    """
    k = (int(k),) if isinstance(k, int | np.integer) else k
    table, true = _checked(scores, truth, k)
    values = table.to_numpy()
    of_truth = values[np.arange(len(values)), table.columns.get_indexer(true)]
    ranks = (values >= of_truth[:, None]).sum(axis=1)
    found = pd.DataFrame({f"recall@{n}": ranks <= n for n in k} | {"mrr": 1 / ranks}).astype(float)
    overall, macro = found.mean(), found.groupby(true.to_numpy()).mean().mean().add_prefix("macro_")
    recalls = [f"recall@{n}" for n in k]
    names = [*recalls, *(f"macro_{name}" for name in recalls), "mrr", "macro_mrr"]
    return pd.concat([overall, macro])[names]


def _checked(scores: pd.DataFrame | np.ndarray, truth: ArrayLike, k: Sequence[int]) -> tuple[pd.DataFrame, pd.Series]:
    """Scores and true labels of the cells that have one."""
    if not len(k) or min(k) < 1:
        msg = f"k must be numbers of labels, each at least 1; got {tuple(k)}. As published: k=(1, 5, 10, 20)."
        raise ValueError(msg)
    if np.ndim(scores) != 2 or np.ndim(truth) != 1 or len(scores) != np.size(truth):
        msg = (
            f"scores has shape {np.shape(scores)} and truth {np.shape(truth)}, but cells x labels and one true label "
            'per cell are needed: sf.metrics.retrieval(adata.obsm["zero_shot_scores"], adata.obs["cell_type"]).'
        )
        raise ValueError(msg)
    require_same_cells(scores, truth, names=("scores", "truth"))
    table, true = pd.DataFrame(scores).reset_index(drop=True), pd.Series(truth, dtype=object).reset_index(drop=True)
    labelled = labelled_cells(true)
    table, true = table[labelled], true[labelled]
    if not table.columns.is_unique:
        msg = (
            f"scores has the column {table.columns[table.columns.duplicated()][0]!r} more than once; keep one of them."
        )
        raise ValueError(msg)
    barred = true.map(lambda label: label.replace("/", "|") if isinstance(label, str) else label)
    true = true.where(true.isin(table.columns), barred)
    absent = true[~true.isin(table.columns)]
    if len(absent):
        known = quoted(table.columns, 5)
        msg = (
            f"{len(absent)} of {len(true)} cells have a true label that scores has no column for, for example "
            f"{absent.iloc[0]!r}; its columns: {known}. "
            "Rename the labels, or leave those cells out: known = truth.isin(scores.columns); "
            "sf.metrics.retrieval(scores[known], truth[known])."
        )
        raise ValueError(msg)
    if not np.isfinite(table.to_numpy(dtype=float)).all():
        msg = "scores holds missing or infinite values, which have no rank. Leave out cells or labels without a score."
        raise ValueError(msg)
    return table, true
