"""What embeddings are compared with: fitted to the very cells, as people do every day."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scanpy as sc
import torch
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = [
    "TARGET_SUM",
    "Baseline",
    "harmony",
    "log_normalised",
    "own_threads",
    "pca",
    "principal_components",
    "scvi",
    "variable_genes",
]

Baseline = Literal["pca", "harmony", "scvi", "random"]

N_GENES, N_COMPONENTS, TARGET_SUM, MAX_VALUE = 2000, 50, 1e4, 10


@contextmanager
def own_threads() -> Iterator[None]:
    """Keep the threads of torch while scanpy runs, whose numba sets them anew: small steps become 50 times slower."""
    n_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def numpy_undisturbed() -> Iterator[None]:
    """Leave numpy's state as it was: parts of scvi-tools draw numbers when they are first loaded."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def log_normalised(counts: AnnData) -> AnnData:
    """Copy with log1p of counts per 10,000."""
    cells = counts.copy()
    with own_threads():
        sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
        sc.pp.log1p(cells)
    return cells


def variable_genes(counts: AnnData, n_genes: int = N_GENES, batch_key: str | None = None) -> NDArray[np.bool_]:
    """Most variable genes of counts, chosen over batches; all where there are no more, (n_vars,)."""
    if counts.n_vars <= n_genes:
        return np.ones(counts.n_vars, dtype=bool)
    logged = log_normalised(counts)
    sc.pp.highly_variable_genes(logged, n_top_genes=n_genes, batch_key=batch_key)
    return logged.var["highly_variable"].to_numpy()


def principal_components(logged: AnnData, n_components: int) -> NDArray[np.float32]:
    """Of log expression, which is not changed, (n_obs, n_components)."""
    found = sc.pp.pca(logged, n_comps=n_components, random_state=0, copy=True).obsm["X_pca"]
    return found.astype(np.float32)


def pca(counts: AnnData) -> NDArray[np.float32]:
    """Principal components as in scanpy's tutorials: normalise, log, scale, (n_obs, 50)."""
    logged = log_normalised(counts)
    if sparse.issparse(logged.X):
        logged.X = logged.X.toarray()  # which it will be once it is centred
    sc.pp.scale(logged, max_value=MAX_VALUE)
    return principal_components(logged, min(N_COMPONENTS, min(logged.shape) - 1))


def harmony(components: NDArray[np.float32], batches: NDArray[np.str_], seed: int) -> NDArray[np.float32]:
    """Components with what sets batches apart taken out by Harmony."""
    import harmonypy

    of_cells = pd.DataFrame({"batch": batches})
    corrected = harmonypy.run_harmony(components, of_cells, "batch", random_state=seed, verbose=False).Z_corr
    found = np.asarray(corrected)
    # Older releases hand out (d, n_obs).
    return (found if found.shape == components.shape else found.T).astype(np.float32)


def scvi(counts: AnnData, batch_key: str | None, seed: int, **train: Any) -> NDArray[np.float32]:
    """Latent mean of scVI with its defaults, trained on the counts; random states are left as they were."""
    from scfoundry.train.manners import quiet_lightning
    from scfoundry.train.plan import seeded

    # What it validates on scvi-tools draws by a seed of the whole process, or takes from the end.
    order = np.random.default_rng(seed).permutation(counts.n_obs)
    cells = counts[order].copy()
    how = {"early_stopping": True, "enable_progress_bar": False, "accelerator": "cpu"} | train
    with seeded(seed, torch.device("cpu")), numpy_undisturbed(), quiet_lightning():
        from scvi.model import SCVI

        SCVI.setup_anndata(cells, batch_key=batch_key)
        model = SCVI(cells)
        model.train(**how, shuffle_set_split=False)
        return model.get_latent_representation()[np.argsort(order)].astype(np.float32)
