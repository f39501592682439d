"""How well clusters and neighbourhoods of an embedding agree with known labels (Wen et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from scfoundry.metrics._labelled import Labelled, labelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["clustering"]

_RESOLUTIONS = tuple(step / 10 for step in range(1, 15))


def clustering(
    adata: AnnData,
    *,
    use_rep: str,
    labels_key: str,
    n_neighbors: int = 15,
    resolutions: Sequence[float] = _RESOLUTIONS,
    rng: int | np.random.Generator | None = 0,
) -> pd.Series:
    """Agreement of an embedding with cell labels: ARI, NMI and nearest-neighbour accuracy.

    Cells are clustered by Leiden on their neighbour graph at every resolution :math:`r`; the adjusted Rand index and
    the normalised mutual information (arithmetic mean) compare clusters with labels. As CellPLM does
    :cite:p:`wen2024cellplm`, the best value over resolutions is reported for each of the two separately: the labels
    choose the resolution, so these are upper bounds of what a user without labels gets. The values at :math:`r = 1`,
    scanpy's default, are not.

    ``knn_accuracy`` is the share of cells whose label is the most frequent one among their `n_neighbors` nearest
    other cells; of labels equally frequent the one that occurs nearest is taken. Neighbours are exact and Euclidean.

    Parameters
    ----------
    adata
        Cells with an embedding. It is only read.
    use_rep, labels_key
        Key of ``obsm`` with the embedding, (n_obs, d), and column of ``obs`` with the labels. Cells without a label
        (missing values) take no part.
    n_neighbors
        Size of the neighbourhood, for the graph (where, as in scanpy, the cell itself counts) and for the accuracy.
    resolutions
        Leiden resolutions to choose from; lower ones win ties.
    rng
        Seed of Leiden.

    Returns
    -------
    ``ari``, ``ari_resolution``, ``nmi``, ``nmi_resolution`` (the best values and where they were reached),
    ``ari_at_1``, ``nmi_at_1`` (at resolution 1) and ``knn_accuracy``.

    Raises
    ------
    ValueError
        If there is no such key, the embedding holds missing values, or labelled cells or labels are too few.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced()
    >>> sf.metrics.clustering(adata, use_rep="X_pca", labels_key="bulk_labels")["knn_accuracy"].round(1)
    np.float64(0.8)
    """
    embedding, labels, *_ = _neighbourly(adata, use_rep, labels_key, n_neighbors)
    if not len(resolutions) or min(resolutions) <= 0:
        msg = f"resolutions must be positive numbers, at least one; got {tuple(resolutions)}. Try resolutions=(0.5, 1)."
        raise ValueError(msg)
    seed = int(rng) if isinstance(rng, int | np.integer) else int(np.random.default_rng(rng).integers(2**31))
    tried = sorted({*resolutions, 1.0})
    scores = pd.DataFrame(
        [
            (adjusted_rand_score(labels, clusters), normalized_mutual_info_score(labels, clusters))
            for clusters in _leiden(embedding, tried, n_neighbors, seed)
        ],
        index=tried,
        columns=["ari", "nmi"],
    )
    chosen = scores.loc[sorted(resolutions)]
    return pd.Series(
        {
            "ari": chosen["ari"].max(),
            "ari_resolution": chosen["ari"].idxmax(),
            "nmi": chosen["nmi"].max(),
            "nmi_resolution": chosen["nmi"].idxmax(),
            "ari_at_1": scores.loc[1.0, "ari"],
            "nmi_at_1": scores.loc[1.0, "nmi"],
            "knn_accuracy": _knn_accuracy(embedding, labels, n_neighbors),
        }
    )


def _neighbourly(adata: AnnData, use_rep: str, labels_key: str, n_neighbors: int) -> Labelled:
    """Labelled cells, enough of them to have neighbours."""
    cells = labelled(adata, use_rep, labels_key)
    if len(cells.labels) <= n_neighbors or n_neighbors < 2:
        msg = (
            f"{len(cells.labels)} cells have a label, too few for n_neighbors={n_neighbors}, which must be at least 2 "
            f"and less than the number of cells. Pass n_neighbors={max(2, min(15, len(cells.labels) - 1))}, or more "
            "cells."
        )
        raise ValueError(msg)
    return cells


def _leiden(embedding: np.ndarray, resolutions: Sequence[float], n_neighbors: int, seed: int) -> list[pd.Series]:
    cells = AnnData(embedding)
    # Above 8192 cells scanpy would switch to approximate neighbours; exact ones make scores comparable across sizes.
    sc.pp.neighbors(cells, n_neighbors=n_neighbors, use_rep="X", transformer="sklearn", random_state=seed)
    partitions = []
    for resolution in resolutions:
        sc.tl.leiden(cells, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
        partitions.append(cells.obs["leiden"])
    return partitions


def _knn_accuracy(embedding: np.ndarray, labels: NDArray[np.int64], n_neighbors: int) -> float:
    # Asked without cells, scikit-learn leaves each cell out of its own neighbours, duplicates of it stay in.
    neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(embedding).kneighbors(return_distance=False)
    around = labels[neighbours]
    cells = np.arange(len(labels))[:, None]
    n_labels = labels.max() + 1
    votes = np.bincount((cells * n_labels + around).ravel(), minlength=len(labels) * n_labels).reshape(-1, n_labels)
    winning = votes[cells, around] == votes.max(axis=1, keepdims=True)
    return float((around[cells[:, 0], winning.argmax(axis=1)] == labels).mean())
