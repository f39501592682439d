"""Blood cells, half of which met interferon-beta, and how frequencies of codes tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import scanpy as sc
from scipy.stats import false_discovery_control, mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scfoundry as sf
from benchmarks.peers import log_normalised, principal_components, variable_genes
from scfoundry.data.genes.gene_sets import read_gene_sets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Row = dict[str, Any]

__all__ = ["RESPONSE", "SETTINGS", "Task", "peers", "read", "scaled_random", "scores", "scores_of_codes"]

SETTINGS = {"data": "kang_ifnb_2000", "sets": "msigdb_hallmark_v7.0.symbols", "genes": 2000, "components": 50}
SETTINGS |= {"folds": 5, "surest_q": 1e-4, "differs_q": 0.01}
RESPONSE = {"alpha": "HALLMARK_INTERFERON_ALPHA_RESPONSE", "gamma": "HALLMARK_INTERFERON_GAMMA_RESPONSE"}
# Cells that random weights are scaled to.
N_TO_SCALE = 512


class Task(NamedTuple):
    """Counts, which cells were stimulated, and gene sets."""

    cells: ad.AnnData
    stimulated: NDArray[np.bool_]  # (n_obs,)
    sets: dict[str, list[str]]


def scaled_random(model: Any, cells: ad.AnnData, seed: int) -> Any:
    """A model of the same structure that has seen cells (counts), but learned nothing: steps of the rate 0.

    Scalars of tokens are scaled to vary among cells, and codes lie where tokens are. With neither, which is what
    ``random:NAME`` gives, all cells have the same tokens: to beat that says little of what was learned.
    """
    rows = np.random.default_rng(seed).permutation(cells.n_obs)[:N_TO_SCALE]
    some = ad.AnnData(cells.X[rows], var=cells.var)
    sf.model.ScPaLM.setup_anndata(some)
    found = sf.model.ScPaLM(some, genes=model.genes, seed=seed, **model.config.as_dict())
    how = {"batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
    found.train(stage=1, max_epochs=1, lr=0.0, seed=seed, **how)
    return found


def read(folder: Path) -> Task:
    """All cells, labelled or not."""
    cells = ad.read_h5ad(folder / f"{SETTINGS['data']}.h5ad")
    cells.X = cells.X.astype(np.float32)
    sets = read_gene_sets(folder / "knowledge" / f"{SETTINGS['sets']}.gmt")
    return Task(cells, (cells.obs["condition"] == "stim").to_numpy(), sets)


def scores(task: Task, features: NDArray[np.floating], seed: int) -> Row:
    """How well features (n_obs, F) tell stimulated cells: all by logistic regression, and the best one alone."""
    folds = StratifiedKFold(SETTINGS["folds"], shuffle=True, random_state=seed)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    found = cross_val_score(regression, features, task.stimulated, cv=folds, scoring="roc_auc")
    auroc, q_values = differences(task, features)
    return {
        "auroc": float(found.mean()),
        "best_alone": float(np.maximum(auroc, 1 - auroc).max()),
        "n_differing": float((q_values < SETTINGS["differs_q"]).sum()),
        "n_features": float((features.std(0) > 0).sum()),
    }


def differences(task: Task, features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC of every feature for stimulated cells, above 0.5 where they have more, and Mann-Whitney's adjusted p."""
    wide = features.astype(np.float64)  # p values of float32 end at 1e-38
    stimulated, others = wide[task.stimulated], wide[~task.stimulated]
    found = mannwhitneyu(stimulated, others, axis=0)
    return found.statistic / (len(stimulated) * len(others)), false_discovery_control(found.pvalue)


def scores_of_codes(task: Task, model: Any, seed: int) -> Row:
    """Scores of the frequencies of codes, and the codes whose genes are those of the response to interferon."""
    cells = ad.AnnData(task.cells.X, task.cells.obs[[]], task.cells.var)
    sf.tl.pathway_tokens(cells, model=model, gene_sets=task.sets)
    frequencies, found = cells.obsm["X_pathway_tokens"], cells.uns["pathway_tokens"]
    auroc, q_values = differences(task, frequencies.to_numpy())
    place = np.abs(auroc - 0.5).argsort()[::-1].argsort() + 1
    codes = []
    for row in found["enrichment"].itertuples():
        if row.gene_set in RESPONSE.values() and row.q_value < SETTINGS["surest_q"]:
            k = frequencies.columns.get_loc(row.code)
            of_code = {"auroc": float(auroc[k]), "place": int(place[k]), "differs_q": float(q_values[k])}
            of_set = {"q": float(row.q_value), "n_shared": int(row.n_shared), "n_code": int(row.n_code)}
            codes.append({"code": row.code, "gene_set": row.gene_set} | of_set | of_code)
    best = frequencies.columns[place.argmin()]
    genes = found["association"].query("code == @best")["gene"].head(10).tolist()
    what = {"perplexity": float(found["perplexity"]), "best_code": best, "genes_of_best": genes, "codes": codes}
    return scores(task, frequencies.to_numpy(), seed) | what


def peers(task: Task) -> Iterator[tuple[str, NDArray[np.floating]]]:
    """Components of the same cells, and what the gene set itself says."""
    variable = variable_genes(task.cells, SETTINGS["genes"])
    logged = log_normalised(task.cells)
    of_set = logged[:, logged.var_names.isin(task.sets[RESPONSE["alpha"]])].X
    scaled = logged[:, variable].copy()
    sc.pp.scale(scaled, max_value=10)
    yield "PCA", principal_components(scaled, SETTINGS["components"])
    yield "mean expression of the interferon alpha set", np.asarray(of_set.mean(1)).reshape(-1, 1)
