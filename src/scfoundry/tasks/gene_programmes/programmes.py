"""Gene programmes: Leiden clusters of a model's gene vectors (Cui et al. 2024), and what they are enriched for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from scfoundry.stats.over_representation import over_representation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["enrichment", "gene_programmes"]


def gene_programmes(
    vectors: NDArray[np.float32], *, resolution: float, n_neighbors: int, min_genes: int, seed: int
) -> NDArray[np.int64]:
    """Number of the programme of every gene, the largest first; -1 for genes of clusters of less than ``min_genes``.

    Leiden on the graph of the ``n_neighbors`` nearest genes by the cosine of their vectors, (g, D) to (g,).
    """
    genes, n_neighbors = AnnData(obsm={"X": vectors}), min(n_neighbors, len(vectors) - 1)
    sc.pp.neighbors(genes, n_neighbors=n_neighbors, use_rep="X", metric="cosine", random_state=seed)
    sc.tl.leiden(genes, resolution=resolution, flavor="igraph", n_iterations=-1, directed=False, random_state=seed)
    clusters = genes.obs["leiden"].cat.codes.to_numpy()
    _, first, sizes = np.unique(clusters, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return np.where(sizes[clusters] >= min_genes, number[clusters], -1)


def enrichment(
    programmes: NDArray[np.int64],
    genes: NDArray[np.int64],
    gene_sets: Mapping[str, NDArray[np.int64]],
    *,
    names: Sequence[str],
    max_q: float,
) -> pd.DataFrame:
    """Gene sets of which programmes hold more than chance would, by programme, the surest first.

    ``programmes``: number of the programme of every gene, -1 for none, (g,). ``genes``: their vocabulary positions,
    which are also the background: genes of a set that are not among them do not count. ``gene_sets``: positions of the
    genes of every set. ``names``: of the genes, (g,). ``max_q``: pairs above it are left out, after the adjustment.
    """
    groups = np.arange(programmes.max(initial=-1) + 1)[:, None] == programmes
    sets = np.array([np.isin(genes, members) for members in gene_sets.values()], dtype=bool).reshape(-1, len(genes))
    found = over_representation(groups, sets)
    rows, columns = np.nonzero((found.q_values <= max_q) & (found.overlap > 0))
    order = np.lexsort((columns, found.p_values[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    labels, named = np.array(list(gene_sets), dtype=object), np.array(names, dtype=object)
    shared = [", ".join(sorted(named[groups[p] & sets[s]])) for p, s in zip(rows, columns, strict=True)]
    values = {
        "programme": (rows + 1).astype(str).astype(object),
        "gene_set": labels[columns],
        "n_shared": found.overlap[rows, columns],
        "n_programme": groups.sum(1)[rows],
        "n_gene_set": sets.sum(1)[columns],
        "fold_enrichment": found.fold[rows, columns],
        "p_value": found.p_values[rows, columns],
        "q_value": found.q_values[rows, columns],
        "genes": np.array(shared, dtype=object),
    }
    return pd.DataFrame(values, index=pd.RangeIndex(len(rows)).astype(str))
