"""A screen as an AnnData holds it: the condition of every cell, its controls, and a few of them to perturb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry.data.perturbations import group_labels, members_of, perturbation_labels
from scfoundry.nn.counts import SparseCounts
from scfoundry.tasks.perturbation.conditions import Condition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.nn.counts import LibrarySize

__all__ = ["conditions_of", "control_rows", "described", "reference_cells"]

REFERENCE_CELLS = 64
"""Control cells in which genes are perturbed for the model to see; more would hardly move their mean."""


def conditions_of(
    adata: AnnData, perturbation_key: str, control: str, group_key: str | None, sep: str | None
) -> list[Condition | None]:
    """Condition of every cell, without parts for controls; `None` for cells without a perturbation or a group."""
    labels = perturbation_labels(adata, perturbation_key, control=control, sep=sep)
    groups = group_labels(adata, group_key)
    parts = members_of(labels.dropna().unique(), control=control, sep=sep)
    known = labels.notna() & groups.notna()
    return [
        Condition(parts[name], group) if there else None
        for name, group, there in zip(labels, groups, known, strict=True)
    ]


def control_rows(adata: AnnData, conditions: Sequence[Condition | None]) -> dict[str, NDArray[np.int64]]:
    """Row numbers of the control cells of every group that has some, by name of the cell: their order plays no part.

    Raises
    ------
    ValueError
        If a group has perturbed cells but no controls.
    """
    rows: dict[str, list[int]] = {}
    for i in np.argsort(adata.obs_names.to_numpy().astype(str), kind="stable"):
        condition = conditions[i]
        if condition is not None and not condition.parts:
            rows.setdefault(condition.group, []).append(int(i))
    lacking = sorted({c.group for c in conditions if c is not None} - rows.keys())
    if lacking:
        msg = (
            f"The group {', '.join(map(repr, lacking))} has perturbed cells but no control cells to compare them with. "
            f"Leave it out: adata = adata[~adata.obs[group_key].isin({lacking})].copy()."
        )
        raise ValueError(msg)
    return {group: np.array(rows[group]) for group in sorted(rows)}


def reference_cells(
    reader: CountsReader, rows: Mapping[str, NDArray[np.int64]], library_size: LibrarySize, rng: np.random.Generator
) -> SparseCounts:
    """Log expression of some control cells of all groups, one context."""
    everything = np.concatenate(list(rows.values()))
    if len(everything) > REFERENCE_CELLS:
        everything = rng.choice(everything, REFERENCE_CELLS, replace=False)
    return SparseCounts.from_csr(reader.read(everything)).log_normalised(library_size)


def described(parts: Mapping[str, tuple[str, ...]], groups: Sequence[str], seen: set[str]) -> pd.DataFrame:
    """What was predicted: one row per group and perturbation."""
    table = pd.DataFrame(
        [
            (name, group, len(members), sum(part not in seen for part in members))
            for group in groups
            for name, members in parts.items()
        ],
        columns=["perturbation", "group", "n_perturbed", "n_unseen"],
    )
    names = table["perturbation"] if len(groups) == 1 else table["perturbation"] + " | " + table["group"]
    return table.astype({"perturbation": "category", "group": "category"}).set_index(pd.Index(names.to_numpy()))
