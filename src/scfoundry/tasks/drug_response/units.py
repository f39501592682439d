"""What a pair of line and drug belongs to, so that parts of a split share none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["WHAT", "Split", "folds", "of_units", "units"]

Split = Literal["warm", "cold_cell", "cold_tissue", "cold_drug"]
WHAT: dict[Split, str] = {"warm": "pairs", "cold_cell": "lines", "cold_tissue": "tissues", "cold_drug": "drugs"}


def units(
    lines: Sequence[str], drugs: Sequence[str], split: Split, tissues: Sequence[str] | None = None
) -> NDArray[np.object_]:
    """Name of the unit of every pair, (n, D): pair, line, tissue or drug; their order plays no part."""
    rows = np.asarray(lines, dtype=object)[:, None]
    columns = np.asarray(drugs, dtype=object)[None]
    shape = len(rows), columns.shape[1]
    if split == "warm":
        return rows + "\t" + columns
    if split == "cold_drug":
        return np.broadcast_to(columns, shape)
    return np.broadcast_to(rows if split == "cold_cell" else np.asarray(tissues, dtype=object)[:, None], shape)


def folds(
    of_pair: NDArray[np.object_], measured: NDArray[np.bool_], n_folds: int, seed: int
) -> list[NDArray[np.bool_]]:
    """Pairs left out in turn, each measured one once, (n, D); fewer folds where there are fewer units."""
    drawn = np.random.default_rng(seed).permutation(np.unique(of_pair[measured]))
    parts = np.array_split(drawn, min(n_folds, len(drawn)))
    return [of_units(of_pair, part) & measured for part in parts]


def of_units(of_pair: NDArray[np.object_], chosen: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Pairs of some of the units, (n, D)."""
    # numpy's isin compares objects one by one.
    return pd.Index(of_pair.ravel()).isin(chosen).reshape(of_pair.shape)
