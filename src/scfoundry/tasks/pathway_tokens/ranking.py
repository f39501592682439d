"""The genes of every code, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry.tasks.pathway_tokens.association import Association

__all__ = ["RankBy", "rank_genes"]

RankBy = Literal["share", "correlation"]


def rank_genes(
    association: Association,
    genes: NDArray[np.int64],
    *,
    codes: Sequence[str],
    names: Sequence[str],
    n_top_genes: int,
    rank_by: RankBy,
    max_q: float,
) -> tuple[pd.DataFrame, dict[str, NDArray[np.bool_]]]:
    """The first genes of every code that go with it, and which of the ``genes`` they are, (g,), by code.

    The p value of a code and a gene, adjusted for all codes and genes (Benjamini and Hochberg), has to be ``max_q`` at
    most, and their correlation above 0. A code that all cells use alike has no genes.

    ``genes``: vocabulary positions of the genes to rank; those before win ties. ``codes``, ``names``: labels of all C
    codes, and of these genes.
    """
    shares, correlation = association.shares[:, genes], association.correlation[:, genes]
    q_values = false_discovery_control(association.p_values[:, genes].ravel()).reshape(correlation.shape)
    kept = (q_values <= max_q) & (correlation > 0)
    scores = np.where(kept, shares if rank_by == "share" else correlation, -1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :n_top_genes]
    rows, places = np.nonzero(np.take_along_axis(kept, order, axis=1))
    columns = order[rows, places]
    top = np.zeros(shares.shape, dtype=bool)
    top[rows, columns] = True
    labels, named = np.array(codes, dtype=object), np.array(names, dtype=object)
    values = {
        "code": labels[rows],
        "rank": places + 1,
        "gene": named[columns],
        "share": shares[rows, columns],
        "fold": shares[rows, columns] / association.usage[rows],
        "correlation": correlation[rows, columns],
        "q_value": q_values[rows, columns],
        "n_cells": association.n_expressed[genes][columns],
    }
    table = pd.DataFrame(values, index=pd.RangeIndex(len(rows)).astype(str))
    return table, {label: of_code for label, of_code in zip(codes, top, strict=True) if of_code.any()}
