"""What imputation is compared with: methods that return counts on the library of the spots, (n_spots, n_targets)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
from sklearn.utils.extmath import randomized_svd

from benchmarks.peers import TARGET_SUM, variable_genes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.impute_spatial.tasks import Task

    Method = Callable[[Task, int], NDArray[np.float32]]

__all__ = ["PEERS", "SETTINGS"]

SETTINGS: dict[str, Any] = {
    "ridge": {"penalty per gene": 3.0},
    "kNN on aligned PCA": {"components": 50, "least cosine": 0.3, "neighbours": 50},
    "Tangram": {"genes": 1000, "epochs": 300, "density_prior": "rna_count_based"},
    "gimVI": {"genes": 1000, "epochs": 200, "n_latent": 10},
}


def _total(task: Task) -> NDArray[np.float32]:
    """Counts of the shared panel in every spot, (n, 1)."""
    return np.asarray(task.spots[:, task.shared].X.sum(1)).reshape(-1, 1)


def _log_shares(adata: Any, genes: list[str], over: list[str]) -> NDArray[np.float32]:
    """log1p of counts per 10,000 of the shared panel, dense."""
    totals = np.asarray(adata[:, over].X.sum(1)).reshape(-1, 1)
    return np.log1p(adata[:, genes].X.toarray() * (TARGET_SUM / np.maximum(totals, 1)))


def _standardised(x: NDArray[np.float32]) -> NDArray[np.float32]:
    deviation = x.std(0)
    return (x - x.mean(0)) / np.where(deviation > 0, deviation, 1)


def _mean_shares(task: Task) -> NDArray[np.float32]:
    """Counts of every target per count of the shared panel in the whole reference, (n_targets,)."""
    return np.ravel(task.cells[:, task.targets].X.sum(0)) / task.cells[:, task.shared].X.sum()


def nothing(task: Task, seed: int) -> NDArray[np.float32]:
    """No count anywhere: what errors and structure make of genes that most spots lack."""
    return np.zeros(task.truth.shape, dtype=np.float32)


def library_alone(task: Task, seed: int) -> NDArray[np.float32]:
    """The same share of every spot's library."""
    return _total(task) * _mean_shares(task)


def reference_mean(task: Task, seed: int) -> NDArray[np.float32]:
    """The same count in every spot."""
    return np.tile(np.median(_total(task)) * _mean_shares(task), (task.spots.n_obs, 1))


def ridge(task: Task, seed: int) -> NDArray[np.float32]:
    """Regress log expression of a target on that of the panel in the reference; both data sets standardised apart."""
    cells, spots = (_standardised(_log_shares(adata, task.shared, task.shared)) for adata in (task.cells, task.spots))
    targets = _log_shares(task.cells, task.targets, task.shared)
    mean = targets.mean(0)
    kernel = cells @ cells.T
    penalty = SETTINGS["ridge"]["penalty per gene"] * len(task.shared)
    weights = np.linalg.solve(kernel + penalty * np.eye(len(kernel), dtype=kernel.dtype), targets - mean)
    log_shares = spots @ (cells.T @ weights) + mean
    return np.expm1(log_shares.clip(0, np.log(TARGET_SUM))) * (_total(task) / TARGET_SUM)


def nearest_cells(task: Task, seed: int) -> NDArray[np.float32]:
    """SpaGE's idea: principal vectors common to both data sets, then the mean of the nearest cells by cosine."""
    how = SETTINGS["kNN on aligned PCA"]
    cells, spots = (_standardised(_log_shares(adata, task.shared, task.shared)) for adata in (task.cells, task.spots))
    n_components = min(how["components"], len(cells) - 1, len(spots) - 1)
    axes = [randomized_svd(x, n_components, random_state=seed)[2].T for x in (cells, spots)]
    rotation, cosines, _ = np.linalg.svd(axes[0].T @ axes[1])
    common = (axes[0] @ rotation)[:, : max(2, int((cosines > how["least cosine"]).sum()))]
    similarity = _unit(spots @ common) @ _unit(cells @ common).T
    shares = np.expm1(_log_shares(task.cells, task.targets, task.shared)) / TARGET_SUM
    predicted = np.empty((len(spots), len(task.targets)), dtype=np.float32)
    for i, row in enumerate(similarity):
        nearest = np.argpartition(-row, how["neighbours"])[: how["neighbours"]]
        distance = 1 - row[nearest]
        weights = 1 - distance / distance.sum()
        predicted[i] = weights @ shares[nearest] / weights.sum()
    return predicted * _total(task)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def tangram(task: Task, seed: int) -> NDArray[np.float32]:
    """Tangram in its mode for cells (PyPI `tangram-sc`)."""
    import tangram as tg
    import torch

    torch.manual_seed(seed)
    how = SETTINGS["Tangram"]
    cells = task.cells.copy()
    sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
    spots = task.spots[:, task.shared].copy()
    tg.pp_adatas(cells, spots, genes=_variable(task, how["genes"]))
    mapping = tg.map_cells_to_space(
        cells,
        spots,
        mode="cells",
        density_prior=how["density_prior"],
        num_epochs=how["epochs"],
        device="cpu",
        random_state=seed,
        verbose=False,
    )
    # Tangram writes gene names in lower case, and leaves out genes that no reference cell expresses.
    projected = tg.project_genes(adata_map=mapping, adata_sc=cells).to_df()
    targets = [gene.lower() for gene in task.targets]
    return projected.reindex(columns=targets, fill_value=0).to_numpy(np.float32)


def gimvi(task: Task, seed: int) -> NDArray[np.float32]:
    """Expected share of a target by gimVI of scvi-tools, times the library."""
    import scvi
    import torch

    scvi.settings.seed = seed
    # Its gradients become denormal numbers, which a CPU computes with several times more slowly.
    torch.set_flush_denormal(True)
    how = SETTINGS["gimVI"]
    panel = _variable(task, how["genes"])
    cells, spots = task.cells[:, [*panel, *task.targets]].copy(), task.spots[:, panel].copy()
    cells, spots = (adata[np.ravel(adata[:, panel].X.sum(1)) > 0].copy() for adata in (cells, spots))
    scvi.external.GIMVI.setup_anndata(cells)
    scvi.external.GIMVI.setup_anndata(spots)
    model = scvi.external.GIMVI(cells, spots, n_latent=how["n_latent"])
    model.train(how["epochs"], enable_progress_bar=False)
    shares = model.get_imputed_values(normalized=True)[1]
    predicted = np.zeros((task.spots.n_obs, len(task.targets)), dtype=np.float32)
    predicted[task.spots.obs_names.isin(spots.obs_names)] = shares[:, len(panel) :]
    return predicted * _total(task)


def _variable(task: Task, n_genes: int) -> list[str]:
    """Most variable genes of the reference among the shared panel, detected in the spots."""
    detected = np.ravel((task.spots[:, task.shared].X > 0).sum(0)) > 0
    cells = task.cells[:, np.asarray(task.shared)[detected]]
    return cells.var_names[variable_genes(cells, n_genes)].tolist()


PEERS: dict[str, Method] = {
    "0 everywhere": nothing,
    "library size alone": library_alone,
    "mean of the reference": reference_mean,
    "ridge": ridge,
    "kNN on aligned PCA": nearest_cells,
    "Tangram": tangram,
    "gimVI": gimvi,
}
