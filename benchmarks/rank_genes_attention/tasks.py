"""Cells of tumours and normal ones, and how an order of genes agrees with mean and with differential expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

from benchmarks import tumour
from benchmarks.peers import log_normalised, own_threads
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.tasks.gene_attention.moments import attention_moments
from scfoundry.tasks.gene_attention.ranking import rank_genes

if TYPE_CHECKING:
    from pathlib import Path

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["DATA_SETS", "Order", "Task", "by_attention", "by_expression", "read", "scores"]

# Malignant cells against the others of the same tumour; and, last, a tumour against the islets of another study of the
# same organ and technology.
ACROSS = {"pdac_a_indrop, baron_h1": ("pdac_a_indrop", "pancreas_islet_baron_h1")}
DATA_SETS = (*tumour.MALIGNANT, *ACROSS)
# Cells of each kind, drawn at random; a gene takes part if so many of both have it; genes at the top.
N_CELLS, MIN_CELLS, N_TOP = 200, 10, 50


class Task(NamedTuple):
    """Cells of a tumour and normal ones, with what is known of their genes without a model."""

    cells: ad.AnnData  # counts; obs["tissue"] is "tumour" or "normal"
    expression: pd.DataFrame  # mean of log expression, "mean" in tumour cells and "difference" to normal ones
    wilcoxon: pd.Series  # z, above 0 where tumour cells express more


class Order(NamedTuple):
    """What genes are ordered by, each by gene."""

    level: pd.Series  # within tumour cells
    difference: pd.Series  # between tumour and normal cells


def read(folder: Path, data: str, vocabulary: GeneVocabulary) -> Task:
    """Draw cells, and order their genes by expression and by Wilcoxon's test."""
    if data in ACROSS:
        kinds = [tumour.read(folder, study, vocabulary) for study in ACROSS[data]]
    else:
        cells = tumour.read(folder, data, vocabulary)
        kinds = [cells[cells.obs["malignant"] == malignant] for malignant in (True, False)]
    kinds = [tumour.drawn(of_kind, N_CELLS, seed=0) for of_kind in kinds]
    cells = ad.concat(dict(zip(("tumour", "normal"), kinds, strict=True)), label="tissue", join="inner")
    seen = [np.asarray((cells[cells.obs["tissue"] == kind].X > 0).sum(0)).ravel() for kind in ("tumour", "normal")]
    kept = cells.var_names[np.min(seen, axis=0) >= MIN_CELLS]
    log = log_normalised(cells)
    means = {kind: np.asarray(log[log.obs["tissue"] == kind].X.mean(0)).ravel() for kind in ("tumour", "normal")}
    expression = pd.DataFrame(
        {"mean": means["tumour"], "difference": means["tumour"] - means["normal"]}, index=cells.var_names
    )
    with own_threads():
        sc.tl.rank_genes_groups(log, "tissue", groups=["tumour"], method="wilcoxon", tie_correct=True)
    wilcoxon = sc.get.rank_genes_groups_df(log, "tumour").set_index("names")["scores"]
    return Task(cells, expression.loc[kept], wilcoxon[kept])


def by_expression(task: Task) -> Order:
    """The order that a model which attends to what is abundant would find."""
    return Order(task.expression["mean"], task.expression["difference"])


def by_attention(task: Task, model: Any) -> Order:
    """The two orders of the verb, from one pass over the cells."""
    cells = Cells.of(task.cells, model.genes, caller="benchmark")
    is_tumour = (task.cells.obs["tissue"] == "tumour").to_numpy()
    moments = attention_moments(model, cells, (~is_tumour).astype(np.int64), 2, compute=Compute.resolve("cpu"))
    ranking = rank_genes(moments, min_cells=MIN_CELLS)
    found = (pd.Series(table[0], model.genes.ids) for table in (ranking.attention, ranking.statistic))
    return Order(*(of_genes[task.wilcoxon.index] for of_genes in found))


def scores(task: Task, order: Order) -> dict[str, float]:
    """Rank correlations, a partial one given mean expression, and shares of the first genes that orders have in common.

    Genes that the model read in too few cells are left out.
    """
    read = order.level.notna() & order.difference.notna()
    level, difference, wilcoxon = order.level[read], order.difference[read], task.wilcoxon[read]
    mean = task.expression["mean"][read]
    return {
        "n_genes": float(read.sum()),
        "level_mean": spearman(level, mean),
        "level_mean_top": shared_top(level, mean),
        "level_wilcoxon": spearman(level, wilcoxon),
        "level_wilcoxon_given_mean": partial_spearman(level, wilcoxon, mean),
        "difference_wilcoxon": spearman(difference, wilcoxon),
        "difference_wilcoxon_top": shared_top(difference, wilcoxon),
    }


def spearman(a: pd.Series, b: pd.Series) -> float:
    """Rank correlation."""
    return float(a.corr(b, method="spearman"))


def partial_spearman(a: pd.Series, b: pd.Series, given: pd.Series) -> float:
    """Rank correlation of what is left of both without a third; NaN where one is the third."""
    ab, ag, bg = spearman(a, b), spearman(a, given), spearman(b, given)
    left = (1 - ag**2) * (1 - bg**2)
    return (ab - ag * bg) / left**0.5 if left > 1e-9 else float("nan")


def shared_top(a: pd.Series, b: pd.Series) -> float:
    """Share of the first genes of one that are among those of the other."""
    return len(a.nlargest(N_TOP).index.intersection(b.nlargest(N_TOP).index)) / N_TOP
