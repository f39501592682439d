"""Quick scores of one embedding: neighbours, clusters and silhouettes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from sklearn.metrics import pairwise_distances_chunked, silhouette_samples

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.embed.tasks import Scored

__all__ = ["Scores", "knn_accuracy", "quick_scores", "silhouette_batch", "silhouette_label"]

N_NEIGHBORS = 15

# Values of each score: one, or one per seed where there is randomness.
Scores = dict[str, list[float]]


def knn_accuracy(embedding: NDArray[np.float32], labels: NDArray[np.str_], groups: NDArray) -> float:
    """Share of cells whose label is the most frequent one among their 15 nearest cells of other groups.

    Of labels equally frequent the one that occurs nearest is taken. Cells whose label occurs in no other group are not
    counted: nobody could find it.

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
    groups_of = [np.unique(groups[codes == code]) for code in range(len(classes))]
    findable = np.array([len(found) > 1 for found in groups_of])[codes]
    right, start = np.zeros(len(labels), bool), 0
    for block in pairwise_distances_chunked(embedding, working_memory=128):
        cells = np.arange(start, start + len(block))
        block[groups[cells][:, None] == groups] = np.inf
        nearest = np.argpartition(block, N_NEIGHBORS, axis=1)[:, :N_NEIGHBORS]
        nearest = np.take_along_axis(nearest, np.take_along_axis(block, nearest, 1).argsort(1), 1)
        around = codes[nearest]  # (cells, 15), nearest first
        votes = (around[..., None] == np.arange(len(classes))).sum(1)
        tied = np.take_along_axis(votes, around, 1) == votes.max(1, keepdims=True)
        right[cells] = around[np.arange(len(cells)), tied.argmax(1)] == codes[cells]
        start += len(block)
    return float(right[findable].mean())


def silhouette_label(embedding: NDArray[np.float32], labels: NDArray[np.str_]) -> float:
    """Average silhouette width of the cell types, in [0, 1] (Luecken et al. 2022)."""
    return float((silhouette_samples(embedding, labels).mean() + 1) / 2)


def silhouette_batch(embedding: NDArray[np.float32], labels: NDArray[np.str_], batches: NDArray[np.str_]) -> float:
    """One minus the absolute silhouette of the batches within a cell type, mean over types (Luecken et al. 2022)."""
    widths = []
    for label in np.unique(labels):
        cells = labels == label
        if 1 < len(np.unique(batches[cells])) < cells.sum():
            widths.append(np.abs(silhouette_samples(embedding[cells], batches[cells])).mean())
    return float(1 - np.mean(widths))


def quick_scores(embedding: NDArray[np.float32], scored: Scored, seeds: Sequence[int] = (0,)) -> Scores:
    """Nearest neighbours, Leiden clusters (one value per seed) and silhouettes."""
    labels, batches = scored.labels, scored.batches
    cells = AnnData(obsm={"X": embedding}, obs={"label": labels})
    clusters = [sf.metrics.clustering(cells, use_rep="X", labels_key="label", rng=seed) for seed in seeds]
    scores = {
        "15-NN accuracy": [knn_accuracy(embedding, labels, np.arange(len(labels)))],
        "Leiden ARI": [float(run["ari_at_1"]) for run in clusters],
        "Leiden NMI": [float(run["nmi_at_1"]) for run in clusters],
        "best Leiden ARI": [float(run["ari"]) for run in clusters],
        "best Leiden NMI": [float(run["nmi"]) for run in clusters],
        "silhouette label": [silhouette_label(embedding, labels)],
    }
    if scored.has_batches:
        scores["cross-batch 15-NN accuracy"] = [knn_accuracy(embedding, labels, batches)]
        scores["silhouette batch"] = [silhouette_batch(embedding, labels, batches)]
    return scores
