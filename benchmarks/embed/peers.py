"""What embeddings are compared with: PCA and scVI; both rest in a cache."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc

from benchmarks import peers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from benchmarks.embed.tasks import DataSet

__all__ = ["PCA_SETTINGS", "SCVI_SETTINGS", "cached", "pca", "scvi"]

Embedding = tuple["NDArray[np.float32]", dict[str, Any]]

N_GENES = 2000
PCA_SETTINGS: dict[str, Any] = {"genes": N_GENES, "target_sum": peers.TARGET_SUM, "max_value": 10, "n_comps": 50}
SCVI_SETTINGS: dict[str, Any] = {"genes": N_GENES, "model": {"n_latent": 10}, "train": peers.SCVI_TRAINING}


def pca(adata: AnnData, data: DataSet, cache: Path) -> Embedding:
    """Principal components as in scanpy's tutorials: normalise, log, variable genes, scale, 50 components."""

    def compute() -> Embedding:
        cells = peers.log_normalised(_variable_genes(adata, data))
        sc.pp.scale(cells, max_value=PCA_SETTINGS["max_value"])
        return peers.principal_components(cells, PCA_SETTINGS["n_comps"]), {"genes": cells.n_vars}

    return cached(cache, f"{data.name}.pca", PCA_SETTINGS, compute)


def scvi(adata: AnnData, data: DataSet, cache: Path, seed: int) -> Embedding:
    """Latent mean of scVI, trained on the counts of variable genes."""

    def compute() -> Embedding:
        cells = _variable_genes(adata, data)
        model = peers.scvi(cells, seed, data.batch_key)
        losses = model.history["elbo_validation"]["elbo_validation"].astype(float)
        facts = {
            "genes": cells.n_vars,
            "epochs": len(losses),
            "elbo_validation_best": float(losses.min()),
            "elbo_validation_last": float(losses.iloc[-1]),
            "elbo_validation_100_epochs_before": float(losses.iloc[-min(101, len(losses))]),
        }
        return model.get_latent_representation().astype(np.float32), facts

    return cached(cache, f"{data.name}.scvi{seed}", SCVI_SETTINGS, compute)


def _variable_genes(adata: AnnData, data: DataSet) -> AnnData:
    return adata[:, peers.variable_genes(adata, N_GENES, data.batch_key)].copy()


def cached(cache: Path, name: str, settings: dict[str, Any], compute: Callable[[], Embedding]) -> Embedding:
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
