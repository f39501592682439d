"""Gene sets of which groups of genes hold more than chance would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry.stats.over_representation import over_representation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["enrichment"]


def enrichment(
    groups: Mapping[str, NDArray[np.bool_]],
    genes: NDArray[np.int64],
    gene_sets: Mapping[str, NDArray[np.int64]],
    *,
    group: str,
    names: Sequence[str],
    max_q: float,
) -> pd.DataFrame:
    """Gene sets of which groups hold more genes than chance would, by group, the surest first.

    ``groups``: which of the genes are in a group, (g,), by its label; a gene may be in several. ``genes``: vocabulary
    positions, which are also the background: genes of a set that are not among them do not count. ``gene_sets``:
    positions of the genes of every set. ``group``: what a group is called, for the names of columns. ``names``: of the
    genes, (g,). ``max_q``: pairs above it are left out, after the adjustment for all pairs.
    """
    members = np.array(list(groups.values()), dtype=bool).reshape(-1, len(genes))
    sets = np.array([np.isin(genes, positions) for positions in gene_sets.values()], dtype=bool).reshape(-1, len(genes))
    found = over_representation(members, sets)
    rows, columns = np.nonzero((found.q_values <= max_q) & (found.overlap > 0))
    order = np.lexsort((columns, found.p_values[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    labels, of_set = (np.array(list(named), dtype=object) for named in (groups, gene_sets))
    named = np.array(names, dtype=object)
    shared = [", ".join(sorted(named[members[i] & sets[j]])) for i, j in zip(rows, columns, strict=True)]
    values = {
        group: labels[rows],
        "gene_set": of_set[columns],
        "n_shared": found.overlap[rows, columns],
        f"n_{group}": members.sum(1)[rows],
        "n_gene_set": sets.sum(1)[columns],
        "fold_enrichment": found.fold[rows, columns],
        "p_value": found.p_values[rows, columns],
        "q_value": found.q_values[rows, columns],
        "genes": np.array(shared, dtype=object),
    }
    return pd.DataFrame(values, index=pd.RangeIndex(len(rows)).astype(str))
