"""What more than one verb is compared with, all of it fitted to the scored data itself."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scfoundry.tasks.benchmarking.baselines import (
    TARGET_SUM,
    log_normalised,
    own_threads,
    principal_components,
    variable_genes,
)

if TYPE_CHECKING:
    import numpy as np
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
