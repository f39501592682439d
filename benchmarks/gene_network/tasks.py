"""Cells, the genes that a network is about, and which pairs of them are known to interact."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import stats

from scfoundry.data.genes.gene_sets import read_gene_sets

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DATA_SETS", "KNOWN", "Task", "baselines", "read", "scores"]

DATA_SETS = ("kang_ifnb_2000", "pancreas_islet_baron_h1")
KNOWN = ("STRING", "Reactome")
# A pair interacts if STRING is that sure of it (its own word is "high confidence").
CONFIDENT = 700
# Larger pathways are no statement about a pair.
LARGEST_PATHWAY = 50
# Cells that are averaged over, drawn at random; genes that enough of them express; the most of these.
N_CELLS, LEAST_DETECTED, MOST_GENES = 300, 0.05, 200


class Task(NamedTuple):
    """Genes of a data set with pairs that are known, and others."""

    cells: ad.AnnData  # counts over all genes
    genes: NDArray[np.str_]  # (g,)
    known: NDArray[np.bool_]  # (g, g), symmetric


def read(folder: Path, data: str, known: str) -> Task:
    """Genes of which something is known, those that most cells express first."""
    stored = ad.read_h5ad(folder / f"{data}.h5ad")
    stored.X = stored.X.astype("float32")
    rows = np.random.default_rng(0).permutation(stored.n_obs)[:N_CELLS]
    cells = ad.AnnData(stored.X[np.sort(rows)], obs=stored.obs.iloc[np.sort(rows)], var=stored.var[[]])
    pairs = _pairs(folder / "knowledge", known)
    detected = pd.Series(np.asarray((cells.X > 0).mean(0)).ravel(), cells.var_names)
    detected = detected[detected.index.isin(pd.unique(pairs.to_numpy().ravel()))]
    genes = detected[detected >= LEAST_DETECTED].nlargest(MOST_GENES).index.sort_values()
    place = pd.Series(np.arange(len(genes)), genes)
    inside = pairs[pairs["a"].isin(genes) & pairs["b"].isin(genes)]
    matrix = np.zeros((len(genes), len(genes)), dtype=bool)
    matrix[place[inside["a"]], place[inside["b"]]] = True
    return Task(cells, genes.to_numpy(dtype=str), matrix | matrix.T)


def _pairs(knowledge: Path, known: str) -> pd.DataFrame:
    """Pairs of gene symbols, columns ``a`` and ``b``."""
    if known == "STRING":
        found = pd.read_csv(knowledge / "ppi_cancer_genes.tsv.gz", sep="\t")
        return found.loc[found["score"] >= CONFIDENT, ["gene_a", "gene_b"]].set_axis(["a", "b"], axis=1)
    pathways = read_gene_sets(knowledge / "reactome_human.gmt.gz").values()
    pairs = [(a, b) for genes in pathways if len(genes) <= LARGEST_PATHWAY for a in genes for b in genes if a < b]
    return pd.DataFrame(pairs, columns=["a", "b"]).drop_duplicates()


def baselines(task: Task) -> dict[str, NDArray[np.float64]]:
    """What needs no model: co-expression, how often two genes are seen together, and chance."""
    cells = task.cells.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    log = cells[:, task.genes].X.toarray()
    seen = (log > 0).astype(float)
    spearman = np.corrcoef(stats.rankdata(log, axis=0), rowvar=False)
    drawn = np.random.default_rng(0).random(spearman.shape)
    return {"Spearman": spearman, "both detected": seen.T @ seen, "chance": drawn + drawn.T}


def scores(task: Task, weights: NDArray[np.float64]) -> dict[str, float]:
    """How well weights of pairs, mean of both directions, tell known ones from others.

    Area under the ROC curve, and precision among as many pairs as are known, over the share that are.
    """
    above = np.triu_indices(len(task.genes), 1)
    values = ((weights + weights.T) / 2)[above]
    truth = task.known[above]
    # Pairs that no cell has are no edges.
    values = np.where(np.isnan(values), -np.inf, values)
    ranks = stats.rankdata(values)
    n_known, n = int(truth.sum()), len(truth)
    auroc = (ranks[truth].sum() - n_known * (n_known + 1) / 2) / (n_known * (n - n_known))
    top = np.argsort(-values, kind="stable")[:n_known]
    return {"auroc": float(auroc), "early_precision_ratio": float(truth[top].mean() / truth.mean())}
