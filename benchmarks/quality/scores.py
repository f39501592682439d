"""Scores of one embedding: neighbours, clusters, silhouettes, and the set of scib-metrics (Luecken et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scib_metrics
from anndata import AnnData
from scib_metrics.nearest_neighbors import NeighborsResults
from scib_metrics.utils import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from quality.data import Scored

__all__ = ["fast_scores", "knn_accuracy", "scib_scores"]

N_NEIGHBORS = 15
BIO = ("isolated labels", "KMeans NMI", "KMeans ARI", "silhouette label", "cLISI")
BATCH = ("BRAS", "iLISI", "kBET", "graph connectivity", "PCR comparison")


def knn_accuracy(embedding: NDArray[np.float32], labels: NDArray[np.str_], groups: NDArray) -> float:
    """Share of cells whose label is the most frequent one among their 15 nearest cells of other groups.

    Parameters
    ----------
    embedding
        (n, d).
    labels
        Cell types, (n,).
    groups
        Cells of one group are no neighbours of each other, (n,): batches, or a number per cell to leave one out.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    right, start = 0, 0
    for block in pairwise_distances_chunked(embedding, working_memory=128):
        cells = np.arange(start, start + len(block))
        block[groups[cells][:, None] == groups] = np.inf
        nearest = np.argpartition(block, N_NEIGHBORS, axis=1)[:, :N_NEIGHBORS]
        nearest = np.take_along_axis(nearest, np.take_along_axis(block, nearest, 1).argsort(1), 1)
        around = codes[nearest]  # (cells, 15), nearest first
        votes = (around[..., None] == np.arange(len(classes))).sum(1)
        tied = np.take_along_axis(votes, around, 1) == votes.max(1, keepdims=True)
        right += int((around[np.arange(len(cells)), tied.argmax(1)] == codes[cells]).sum())
        start += len(block)
    return right / len(labels)


def fast_scores(embedding: NDArray[np.float32], scored: Scored, seeds: Sequence[int] = (0,)) -> dict[str, list[float]]:
    """Nearest neighbours, Leiden clusters and silhouettes: one value, or one per seed where there is randomness."""
    labels, batches = scored.labels, scored.batches
    cells = AnnData(obsm={"X": embedding}, obs={"label": labels})
    clusters = [sf.metrics.clustering(cells, use_rep="X", labels_key="label", rng=seed) for seed in seeds]
    scores = {
        "15-NN accuracy": [knn_accuracy(embedding, labels, np.arange(len(labels)))],
        "Leiden ARI": [float(run["ari_at_1"]) for run in clusters],
        "Leiden NMI": [float(run["nmi_at_1"]) for run in clusters],
        "best Leiden ARI": [float(run["ari"]) for run in clusters],
        "best Leiden NMI": [float(run["nmi"]) for run in clusters],
        "silhouette label": [float(scib_metrics.silhouette_label(embedding, labels))],
    }
    if scored.has_batches:
        scores["cross-batch 15-NN accuracy"] = [knn_accuracy(embedding, labels, batches)]
        scores["silhouette batch"] = [float(scib_metrics.silhouette_batch(embedding, labels, batches))]
    return scores


def scib_scores(
    embedding: NDArray[np.float32], unintegrated: NDArray[np.float32], scored: Scored, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Compute the scores of `scib_metrics.benchmark.Benchmarker` with its aggregates, not rescaled between methods.

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
    scores = {
        "isolated labels": [scib_metrics.isolated_labels(embedding, labels, batches)],
        "silhouette label": [scib_metrics.silhouette_label(embedding, labels)],
        "cLISI": [scib_metrics.clisi_knn(around, labels)],
        "KMeans NMI": [],
        "KMeans ARI": [],
    }
    for seed in seeds:
        clusters = KMeans(len(np.unique(labels)), seed=seed).fit(embedding).labels_
        scores["KMeans NMI"].append(normalized_mutual_info_score(labels, clusters))
        scores["KMeans ARI"].append(adjusted_rand_score(labels, clusters))
    scores["bio conservation"] = _aggregate(scores, BIO, len(seeds))
    if scored.has_batches:
        scores |= {
            "BRAS": [scib_metrics.bras(embedding, labels, batches)],
            "iLISI": [scib_metrics.ilisi_knn(around, batches)],
            "kBET": [scib_metrics.kbet_per_label(around.subset_neighbors(n=50), batches, labels)],
            "graph connectivity": [scib_metrics.graph_connectivity(around.subset_neighbors(n=15), labels)],
            "PCR comparison": [scib_metrics.pcr_comparison(unintegrated, embedding, batches, categorical=True)],
        }
        scores["batch correction"] = _aggregate(scores, BATCH, len(seeds))
        both = zip(scores["bio conservation"], scores["batch correction"], strict=True)
        scores["total"] = [0.6 * bio + 0.4 * batch for bio, batch in both]
    return {name: [float(value) for value in values] for name, values in scores.items()}


def _neighbours(embedding: NDArray[np.float32], n: int) -> NeighborsResults:
    """Exact neighbours, a cell being its own first one, as scib-metrics expects."""
    distances, indices = NearestNeighbors(n_neighbors=n).fit(embedding).kneighbors(embedding)
    return NeighborsResults(indices=indices, distances=distances)


def _aggregate(scores: dict[str, list[float]], names: Sequence[str], n_seeds: int) -> list[float]:
    """Mean of several scores, per seed; deterministic ones count the same for every seed."""
    per_seed = [np.broadcast_to(scores[name], n_seeds) for name in names]
    return [float(value) for value in np.mean(per_seed, axis=0)]
