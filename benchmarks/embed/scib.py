"""The scores of scib-metrics and its aggregates (Luecken et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scib_metrics
from scib_metrics.nearest_neighbors import NeighborsResults
from scib_metrics.utils import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from benchmarks.embed.report import BATCH, BIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.embed.scores import Scores
    from benchmarks.embed.tasks import Scored

__all__ = ["scib_scores"]


def scib_scores(
    embedding: NDArray[np.float32], unintegrated: NDArray[np.float32], scored: Scored, seeds: Sequence[int]
) -> Scores:
    """Compute what `scib_metrics.benchmark.Benchmarker` computes, not rescaled between methods.

    Neighbours are exact, and k-means runs once per seed; everything else is deterministic.

    Parameters
    ----------
    embedding
        (n, d).
    unintegrated
        PCA of the same cells, the reference of PCR comparison, (n, p).
    scored
        Labels and batches.
    seeds
        Of k-means.
    """
    labels, batches = scored.labels, scored.batches
    around = _neighbours(embedding, 90)
    scores: Scores = {
        "isolated labels": [float(scib_metrics.isolated_labels(embedding, labels, batches))],
        "silhouette label": [float(scib_metrics.silhouette_label(embedding, labels))],
        "cLISI": [float(scib_metrics.clisi_knn(around, labels))],
        "KMeans NMI": [],
        "KMeans ARI": [],
    }
    for seed in seeds:
        clusters = KMeans(len(np.unique(labels)), seed=seed).fit(embedding).labels_
        scores["KMeans NMI"].append(float(normalized_mutual_info_score(labels, clusters)))
        scores["KMeans ARI"].append(float(adjusted_rand_score(labels, clusters)))
    scores["bio conservation"] = _aggregate(scores, BIO, len(seeds))
    if scored.has_batches:
        pcr = scib_metrics.pcr_comparison(unintegrated, embedding, batches, categorical=True)
        scores |= {
            "BRAS": [float(scib_metrics.bras(embedding, labels, batches))],
            "iLISI": [float(scib_metrics.ilisi_knn(around, batches))],
            "kBET": [float(scib_metrics.kbet_per_label(around.subset_neighbors(n=50), batches, labels))],
            "graph connectivity": [float(scib_metrics.graph_connectivity(around.subset_neighbors(n=15), labels))],
            "PCR comparison": [float(pcr)],
        }
        scores["batch correction"] = _aggregate(scores, BATCH, len(seeds))
        both = zip(scores["bio conservation"], scores["batch correction"], strict=True)
        scores["total"] = [0.6 * bio + 0.4 * batch for bio, batch in both]
    return scores


def _neighbours(embedding: NDArray[np.float32], n: int) -> NeighborsResults:
    """Exact neighbours, a cell being its own first one, as scib-metrics expects."""
    distances, indices = NearestNeighbors(n_neighbors=n).fit(embedding).kneighbors(embedding)
    return NeighborsResults(indices=indices, distances=distances)


def _aggregate(scores: Scores, names: Sequence[str], n_seeds: int) -> list[float]:
    """Mean of several scores, per seed; deterministic ones count the same for every seed."""
    per_seed = [np.broadcast_to(scores[name], n_seeds) for name in names]
    return [float(value) for value in np.mean(per_seed, axis=0)]
