"""Where labels, their scores and their origin go in an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.slots import refuse_not_finite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["column", "label_slots", "refuse_shared_columns", "warn_of_collapse"]

# How far scores of a cell may be from a sum of 1.
TOLERANCE = 1e-3


def refuse_shared_columns(names: Sequence[str], *, caller: str) -> None:
    """Refuse labels whose scores would go to one column: they differ only in a slash for a bar."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(column(name), name)
        if other != name:
            msg = (
                f"{caller}: the scores of {other!r} and {name!r} would share the column {column(name)!r}, because "
                f"files know no slash in names. Write {name!r} in another way."
            )
            raise ValueError(msg)


def column(name: str) -> str:
    """Name of a label in files, which refuse a slash as in T/NK."""
    return name.replace("/", "|")


def label_slots(
    adata: AnnData,
    key: str,
    names: list[str],
    *,
    scores: NDArray[np.float32],
    decided: NDArray[np.float32],
    named: NDArray[np.bool_],
    caller: str,
) -> dict[str, Any]:
    """By address the best label of cells that are ``named`` (n_obs,), its score, and all scores.

    ``scores`` are of the cell alone, ``decided`` those that choose the label, of the cell or its group: both (n_obs, L)
    over the sorted ``names``. ValueError: if the scores of a cell are no probabilities.
    """
    refuse_not_finite(scores, "the scores of the labels", caller=caller)
    total = scores.sum(1, dtype=np.float64)
    if len(strange := np.flatnonzero((np.abs(total - 1) > TOLERANCE) & (total != 0))):
        msg = (
            f"{caller}: the scores of {len(strange):,} cells are no probabilities; of cell "
            f"{adata.obs_names[strange[0]]!r} they sum to {total[strange[0]]:.4g}. Nothing is written: the weights are "
            'damaged. Compare with those that ship: model="cellnamer".'
        )
        raise ValueError(msg)
    codes = np.where(named, decided.argmax(1), len(names))
    labels = pd.Categorical.from_codes(codes, names if named.all() else [*names, Keys.UNKNOWN])
    table = pd.DataFrame(scores.astype(np.float32), index=adata.obs_names, columns=list(map(column, names)))
    return {
        f"obs/{key}": labels,
        f"obs/{Keys.score(key)}": decided.max(1).astype(np.float32),
        f"obsm/{Keys.scores(key)}": table,
    }


def warn_of_collapse(decided: NDArray[np.float32], known: NDArray[np.bool_], names: list[str], *, caller: str) -> None:
    """Warn if all of several cells get one of several labels."""
    given = np.unique(decided[known].argmax(1))
    if len(given) == 1 and known.sum() > 1 and len(names) > 1:
        logger.warning(
            "%s: all %d cells are called %r. Unless they are of one type, nothing was learned that holds for them: "
            'look at their scores, and try train="head" or another model.',
            caller,
            known.sum(),
            names[given[0]],
        )
