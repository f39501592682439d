"""What embeddings are compared with: fitted to the very cells, as people do every day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scanpy as sc
import torch

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["Baseline", "harmony", "pca", "scvi", "variable_genes"]

Baseline = Literal["pca", "harmony", "scvi", "random"]

N_GENES, N_COMPONENTS, TARGET_SUM, MAX_VALUE = 2000, 50, 1e4, 10


def variable_genes(counts: AnnData, batch_key: str | None) -> AnnData:
    """Counts of the 2,000 most variable genes, chosen over batches; all where there are no more."""
    if counts.n_vars <= N_GENES:
        return counts
    logged = _log_normalised(counts)
    sc.pp.highly_variable_genes(logged, n_top_genes=N_GENES, batch_key=batch_key)
    return counts[:, logged.var["highly_variable"].to_numpy()].copy()


def pca(counts: AnnData) -> NDArray[np.float32]:
    """Principal components as in scanpy's tutorials: normalise, log, scale, (n_obs, 50)."""
    logged = _log_normalised(counts)
    sc.pp.scale(logged, max_value=MAX_VALUE)
    n_components = min(N_COMPONENTS, min(logged.shape) - 1)
    return sc.pp.pca(logged, n_comps=n_components, random_state=0, copy=True).obsm["X_pca"].astype(np.float32)


def harmony(components: NDArray[np.float32], batches: NDArray[np.str_], seed: int) -> NDArray[np.float32]:
    """Components with what sets batches apart taken out by Harmony."""
    import harmonypy

    of_cells = pd.DataFrame({"batch": batches})
    corrected = harmonypy.run_harmony(components, of_cells, "batch", random_state=seed, verbose=False).Z_corr
    found = np.asarray(corrected)
    # Older releases hand out (d, n_obs).
    return (found if found.shape == components.shape else found.T).astype(np.float32)


def scvi(counts: AnnData, batch_key: str | None, seed: int, **train: Any) -> NDArray[np.float32]:
    """Latent mean of scVI with its defaults, trained on the counts; nothing global differs afterwards."""
    from scvi.model import SCVI

    cells = counts.copy()
    SCVI.setup_anndata(cells, batch_key=batch_key)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SCVI(cells)
        model.train(**{"early_stopping": True, "enable_progress_bar": False, "accelerator": "cpu"} | train)
        return model.get_latent_representation().astype(np.float32)


def _log_normalised(counts: AnnData) -> AnnData:
    cells = counts.copy()
    n_threads = torch.get_num_threads()
    try:
        sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
        sc.pp.log1p(cells)
    finally:
        torch.set_num_threads(n_threads)  # numba sets them anew
    return cells
