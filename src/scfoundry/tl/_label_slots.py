"""Where labels, their scores and their origin go in an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._keys import Keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["column", "refuse_shared_columns", "write_labels"]


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


def write_labels(
    adata: AnnData,
    key: str,
    names: list[str],
    *,
    scores: NDArray[np.float32],
    decided: NDArray[np.float32],
    named: NDArray[np.bool_],
    origin: dict[str, Any] | None = None,
) -> None:
    """Write the best label of cells that are ``named`` (n_obs,), its score, all scores, and any origin in ``uns``.

    ``scores`` are of the cell alone, ``decided`` those that choose the label, of the cell or its group: both (n_obs, L)
    over the sorted ``names``.
    """
    codes = np.where(named, decided.argmax(1), len(names))
    labels = pd.Categorical.from_codes(codes, names if named.all() else [*names, Keys.UNKNOWN])
    table = pd.DataFrame(scores.astype(np.float32), index=adata.obs_names, columns=list(map(column, names)))
    adata.obs[key] = labels
    adata.obs[Keys.score(key)] = decided.max(1).astype(np.float32)
    adata.obsm[Keys.scores(key)] = table
    if origin is not None:
        adata.uns[key] = origin
