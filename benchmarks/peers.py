"""What more than one verb is compared with, all of it fitted to the scored data itself."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = [
    "SCVI_TRAINING",
    "TARGET_SUM",
    "log_normalised",
    "logistic_regression",
    "own_threads",
    "principal_components",
    "scvi",
    "variable_genes",
]

TARGET_SUM = 1e4
# Early stopping may act once the KL term has its full weight. scvi-tools takes 400 epochs to get there, by which time
# the validation loss of sets as small as these has long been rising.
SCVI_TRAINING: dict[str, Any] = {
    "max_epochs": 200,
    "early_stopping": True,
    "early_stopping_patience": 20,
    "early_stopping_warmup_epochs": 50,
    "plan_kwargs": {"n_epochs_kl_warmup": 50},
    "batch_size": 256,
}


@contextmanager
def own_threads() -> Iterator[None]:
    """Keep the threads of torch while scanpy runs, whose numba sets them anew: small steps become 50 times slower."""
    n_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def log_normalised(adata: AnnData) -> AnnData:
    """Copy with log1p of counts per 10,000."""
    cells = adata.copy()
    with own_threads():
        sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
        sc.pp.log1p(cells)
    return cells


def variable_genes(adata: AnnData, n_genes: int, batch_key: str | None = None) -> NDArray[np.bool_]:
    """Most variable genes of counts, over batches; all genes where there are fewer."""
    if adata.n_vars <= n_genes:
        return np.ones(adata.n_vars, dtype=bool)
    logged = log_normalised(adata)
    sc.pp.highly_variable_genes(logged, n_top_genes=n_genes, batch_key=batch_key)
    return logged.var["highly_variable"].to_numpy()


def principal_components(logged: AnnData, n_components: int) -> NDArray[np.float32]:
    """Of log expression, which is not changed, (n_obs, n_components)."""
    found = sc.pp.pca(logged, n_comps=n_components, random_state=0, copy=True).obsm["X_pca"]
    return found.astype(np.float32)


def logistic_regression(
    features: NDArray[np.floating], labels: NDArray[Any], query: NDArray[np.floating], *, scaled: bool = True
) -> NDArray[Any]:
    """Labels of the query by multinomial regression on features, standardised if ``scaled``."""
    model = LogisticRegression(max_iter=1000)
    return (make_pipeline(StandardScaler(), model) if scaled else model).fit(features, labels).predict(query)


def scvi(adata: AnnData, seed: int, batch_key: str | None = None) -> Any:
    """scVI, trained on counts until its validation loss no longer improves."""
    import scvi as scvi_tools

    scvi_tools.settings.seed = seed
    # Its gradients become denormal numbers, which a CPU computes with several times more slowly.
    torch.set_flush_denormal(True)
    cells = adata.copy()
    scvi_tools.model.SCVI.setup_anndata(cells, batch_key=batch_key)
    model = scvi_tools.model.SCVI(cells)
    with tempfile.TemporaryDirectory() as folder:
        model.train(**SCVI_TRAINING, enable_progress_bar=False, default_root_dir=folder)
    return model
