"""Cells of a group decide together (majority voting; Dominguez Conde et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scfoundry._compat import obs_column
from scfoundry.stats.groups import membership

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ALONE", "group_means", "groups_of", "over_cluster"]

# Cells -> resolution of Leiden: some tens of cells per cluster, however large the data set.
RESOLUTIONS = {5_000: 5, 20_000: 10, 40_000: 15, 100_000: 20, 200_000: 25}
HIGHEST_RESOLUTION = 30
N_NEIGHBORS = 15
ALONE = -1


def groups_of(adata: AnnData, key: str) -> NDArray[np.int64]:
    """Group of every cell as a number, -1 where the column has no value, (n_obs,)."""
    return pd.factorize(np.asarray(obs_column(adata, key)))[0].astype(np.int64)


def over_cluster(latent: NDArray[np.float32]) -> NDArray[np.int64]:
    """Many small Leiden clusters of an embedding, (n_cells,)."""
    n_neighbors = min(N_NEIGHBORS, len(latent) - 1)
    if n_neighbors < 2:
        return np.arange(len(latent))
    import scanpy as sc

    cells = AnnData(obsm={"X": latent})
    sc.pp.neighbors(cells, n_neighbors=n_neighbors, use_rep="X")
    resolution = next((r for n_cells, r in RESOLUTIONS.items() if len(latent) < n_cells), HIGHEST_RESOLUTION)
    sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
    return cells.obs["leiden"].cat.codes.to_numpy().astype(np.int64)


def group_means(values: NDArray[np.float32], groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean over a cell's group in place of its own values, (n_obs,) or (n_obs, P); cells of group -1 keep theirs."""
    together = groups != ALONE
    if not together.any():
        return values
    members = groups[together]
    sums = membership(members, members.max() + 1) @ values[together]
    sizes = np.bincount(members).reshape(-1, *(1 for _ in values.shape[1:]))
    decided = values.copy()
    decided[together] = (sums / np.maximum(sizes, 1))[members]
    return decided
