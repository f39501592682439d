"""Names of cells with their confidence, and what sets cells without a name apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats

from scfoundry._compat import obs_column
from scfoundry._keys import Keys
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.data.matrix.state import MatrixState, inspect_matrix, to_linear

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.tasks.reporting.records import Result

__all__ = ["Names", "markers_of", "names_of"]

# Of fewer cells a mean says nothing.
FEWEST_CELLS = 3
# A marker is found in such a share of the cells, at least.
LEAST_SHARE = 0.25
CONFIDENT = 0.5


@dataclass(frozen=True, eq=False)
class Names:
    """Labels of one result.

    Attributes
    ----------
    key
        Column of ``obs``.
    labels
        Label of every cell, (n_obs,); missing where there is none.
    table
        By label, the most frequent first and unknown cells last: ``n_cells``, ``share`` of all cells, mean
        ``probability``, share of its cells that are ``confident`` (a probability of 0.5 or more) and ``ontology_id``.
    layer
        Layer with the values that were read.
    """

    key: str
    labels: pd.Series
    table: pd.DataFrame
    layer: str | None

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Cells without a name, (n_obs,)."""
        return (self.labels == Keys.UNKNOWN).to_numpy()


def names_of(adata: AnnData, results: list[Result]) -> list[Names]:
    """Of every result that gave cells a label and its probability."""
    return [
        Names(result.key, *_counted(adata, result.key), layer=result.params.get("layer"))
        for result in results
        if result.key in adata.obs and Keys.score(result.key) in adata.obs
    ]


def _counted(adata: AnnData, key: str) -> tuple[pd.Series, pd.DataFrame]:
    labels = obs_column(adata, key).astype(object)
    score = pd.Series(np.asarray(obs_column(adata, Keys.score(key)), dtype=float), index=labels.index)
    by = score.groupby(labels.to_numpy(), sort=True)
    table = pd.DataFrame({"n_cells": by.size(), "probability": by.mean()})
    table["confident"] = (score >= CONFIDENT).groupby(labels.to_numpy(), sort=True).mean()
    table["share"] = table["n_cells"] / max(adata.n_obs, 1)
    table["ontology_id"] = ""
    if (terms := Keys.ontology_id(key)) in adata.obs:
        term = obs_column(adata, terms).astype(object)
        first = term.dropna().groupby(labels[term.notna()].to_numpy()).first()
        table["ontology_id"] = first.reindex(table.index).fillna("")
    unknown = table.index == Keys.UNKNOWN
    return labels, table.assign(last=unknown).sort_values(["last", "n_cells"], ascending=[True, False], kind="stable")


def markers_of(adata: AnnData, chosen: NDArray[np.bool_], *, layer: str | None, n: int) -> pd.DataFrame | None:
    """Genes that set chosen cells, (n_obs,), apart from all others: Welch's t of log1p counts per 10,000.

    Returns
    -------
    By gene, the largest t first: ``fold``, log2 of the ratio of means, ``share`` of the chosen cells that express it,
    and ``rest``, that of the others. `None` where cells are too few on a side, or values are neither counts nor
    their log1p.
    """
    state = inspect_matrix(adata, layer=layer).state
    sizes = np.array([chosen.sum(), (~chosen).sum()])
    if sizes.min() < FEWEST_CELLS or state not in (MatrixState.COUNTS, MatrixState.LOG1P):
        return None
    total, squares, detected, linear = (np.zeros((2, adata.n_vars)) for _ in range(4))
    for rows, block in row_blocks(adata, layer=layer):
        values = log_cp10k(to_linear(block, state))
        for side, of_side in enumerate((chosen[rows], ~chosen[rows])):
            own = values[of_side]
            total[side] += np.asarray(own.sum(0)).ravel()
            squares[side] += np.asarray(own.multiply(own).sum(0)).ravel()
            detected[side] += own.getnnz(axis=0)
            linear[side] += np.asarray(own.expm1().sum(0)).ravel()
    mean = total / sizes[:, None]
    deviation = np.sqrt(np.maximum(squares / sizes[:, None] - mean**2, 0) * (sizes / (sizes - 1))[:, None])
    share = detected / sizes[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        t, _ = ttest_ind_from_stats(mean[0], deviation[0], sizes[0], mean[1], deviation[1], sizes[1], equal_var=False)
    fold = np.log2((linear[0] / sizes[0] + 1) / (linear[1] / sizes[1] + 1))
    found = pd.DataFrame({"t": t, "fold": fold, "share": share[0], "rest": share[1]}, index=adata.var_names.astype(str))
    marking = (found["t"] > 0) & (found["share"] >= LEAST_SHARE)
    return found[marking].sort_values("t", ascending=False, kind="stable").head(n)
