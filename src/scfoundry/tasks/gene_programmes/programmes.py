"""Gene programmes: Leiden clusters of a model's gene vectors (Cui et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scanpy as sc
from anndata import AnnData

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["gene_programmes"]


def gene_programmes(
    vectors: NDArray[np.float32], *, resolution: float, n_neighbors: int, min_genes: int, seed: int
) -> NDArray[np.int64]:
    """Number of the programme of every gene, the largest first; -1 for genes of clusters of less than ``min_genes``.

    Leiden on the graph of the ``n_neighbors`` nearest genes by the cosine of their vectors, (g, D) to (g,).
    """
    genes, n_neighbors = AnnData(obsm={"X": vectors}), min(n_neighbors, len(vectors) - 1)
    sc.pp.neighbors(
        genes, n_neighbors=n_neighbors, use_rep="X", metric="cosine", transformer="sklearn", random_state=seed
    )
    sc.tl.leiden(genes, resolution=resolution, flavor="igraph", n_iterations=-1, directed=False, random_state=seed)
    clusters = genes.obs["leiden"].cat.codes.to_numpy()
    _, first, sizes = np.unique(clusters, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return np.where(sizes[clusters] >= min_genes, number[clusters], -1)
