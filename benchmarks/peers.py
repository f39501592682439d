"""What the embeddings are compared with: PCA and scVI, both fitted to the scored data itself."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from benchmarks.embed.tasks import DataSet

__all__ = ["PCA_SETTINGS", "SCVI_SETTINGS", "pca", "scvi"]

Embedding = tuple["NDArray[np.float32]", dict[str, Any]]

N_GENES = 2000
PCA_SETTINGS: dict[str, Any] = {"genes": N_GENES, "target_sum": 1e4, "max_value": 10, "n_comps": 50}
# Early stopping may act once the KL term has its full weight. scvi-tools takes 400 epochs to get there, by which time
# the validation loss of sets as small as these has long been rising.
SCVI_SETTINGS: dict[str, Any] = {
    "genes": N_GENES,
    "model": {"n_latent": 10},
    "train": {
        "max_epochs": 200,
        "early_stopping": True,
        "early_stopping_patience": 20,
        "early_stopping_warmup_epochs": 50,
        "plan_kwargs": {"n_epochs_kl_warmup": 50},
        "batch_size": 256,
    },
}


def pca(adata: AnnData, data: DataSet, cache: Path) -> Embedding:
    """Principal components as in scanpy's tutorials: normalise, log, variable genes, scale, 50 components."""

    def compute() -> Embedding:
        cells = _variable_genes(adata, data.batch_key)
        sc.pp.normalize_total(cells, target_sum=PCA_SETTINGS["target_sum"])
        sc.pp.log1p(cells)
        sc.pp.scale(cells, max_value=PCA_SETTINGS["max_value"])
        sc.pp.pca(cells, n_comps=PCA_SETTINGS["n_comps"], random_state=0)
        return cells.obsm["X_pca"].astype(np.float32), {"genes": cells.n_vars}

    return _cached(cache, f"{data.name}.pca", PCA_SETTINGS, compute)


def scvi(adata: AnnData, data: DataSet, cache: Path, seed: int) -> Embedding:
    """Train scVI on the counts until its validation loss no longer improves, and take its latent mean."""

    def compute() -> Embedding:
        import scvi as scvi_tools

        scvi_tools.settings.seed = seed
        cells = _variable_genes(adata, data.batch_key)
        scvi_tools.model.SCVI.setup_anndata(cells, batch_key=data.batch_key)
        model = scvi_tools.model.SCVI(cells, **SCVI_SETTINGS["model"])
        model.train(**SCVI_SETTINGS["train"], enable_progress_bar=False)
        losses = model.history["elbo_validation"]["elbo_validation"].astype(float)
        facts = {
            "genes": cells.n_vars,
            "epochs": len(losses),
            "elbo_validation_best": float(losses.min()),
            "elbo_validation_last": float(losses.iloc[-1]),
            "elbo_validation_100_epochs_before": float(losses.iloc[-min(101, len(losses))]),
        }
        return model.get_latent_representation().astype(np.float32), facts

    return _cached(cache, f"{data.name}.scvi{seed}", SCVI_SETTINGS, compute)


def _variable_genes(adata: AnnData, batch_key: str | None) -> AnnData:
    """Counts of the most variable genes over batches; all genes where there are fewer."""
    if adata.n_vars <= N_GENES:
        return adata.copy()
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=N_GENES, batch_key=batch_key)
    return adata[:, logged.var["highly_variable"]].copy()


def _cached(cache: Path, name: str, settings: dict[str, Any], compute: Callable[[], Embedding]) -> Embedding:
    """Read an embedding and what is known of it, or compute and keep it."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    values, facts = cache / f"{name}.{digest}.npy", cache / f"{name}.{digest}.json"
    if not facts.exists():
        cache.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        embedding, known = compute()
        np.save(values, embedding)
        facts.write_text(json.dumps(known | {"seconds": round(time.perf_counter() - start, 1)}))
    return np.load(values), json.loads(facts.read_text())
