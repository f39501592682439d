"""Cells drawn of mean profiles, as noisy as measured ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneAlignment, GeneVocabulary

__all__ = ["draw", "profile_cells"]

DEPTHS = (800, 12_000)
MOST_AMBIENT = 0.15
# Variance of a gene's share between cells of a type, relative to its square.
DISPERSIONS = (0.1, 0.8)


def profile_cells(
    profiles: AnnData,
    labels: NDArray[np.str_],
    alignment: GeneAlignment,
    genes: GeneVocabulary,
    n_cells: int,
    rng: np.random.Generator,
) -> tuple[AnnData, pd.DataFrame]:
    """``n_cells`` of every labelled profile; each reference is a study, with the genes that it measured."""
    shares = np.asarray(alignment.apply(sparse.csr_matrix(profiles.X).astype(np.float32)).todense(), dtype=np.float64)
    reference = reference_names(profiles)
    own = dict(zip(profiles.uns["measured"]["reference"], profiles.uns["measured"]["genes_by_reference"], strict=True))
    parts, measured = [], {}
    for name in np.unique(reference[labels != ""]):
        rows = np.flatnonzero((reference == name) & (labels != ""))
        columns = alignment.target[own[name]]
        measured[name] = np.isin(np.arange(len(genes)), columns[columns >= 0])
        of_reference = shares[rows] * measured[name]
        counts = draw(of_reference, of_reference.mean(0), n_cells, rng)
        obs = profiles.obs.iloc[np.repeat(rows, n_cells)]
        obs = pd.DataFrame(
            {"cell_type": np.repeat(labels[rows], n_cells), "tissue": obs["tissue"].astype(str).to_numpy()}
        )
        obs = obs.assign(values="means", study=name, sample=name).rename(index=f"{name}:{{}}".format)
        part = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes.ids))
        part.obsm["spatial"] = np.full((part.n_obs, 2), np.nan)
        parts.append(part)
    return ad.concat(parts), pd.DataFrame(measured, index=genes.ids)


def reference_names(profiles: AnnData) -> NDArray[np.str_]:
    """Reference of every profile, as ``uns["measured"]`` calls it."""
    files = profiles.obs["source_file"].astype(str)
    return files.str.removesuffix(".RData").str.replace("/", "__").to_numpy(dtype=str)


def draw(shares: NDArray[Any], ambient: NDArray[Any], n_cells: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of ``n_cells`` of each of P profiles (P, G): other shares in every cell, some ambient, multinomial."""
    drawn = []
    for profile in shares:
        depth = np.exp(rng.uniform(*np.log(DEPTHS), n_cells)).astype(int)
        shape = 1 / rng.uniform(*DISPERSIONS, (n_cells, 1))
        of_cells = profile / profile.sum() * rng.gamma(shape, 1 / shape, (n_cells, len(profile)))
        part = rng.uniform(0, MOST_AMBIENT, (n_cells, 1))
        of_cells = (1 - part) * of_cells / of_cells.sum(1, keepdims=True) + part * ambient / ambient.sum()
        drawn.append(sparse.csr_matrix(rng.multinomial(depth, of_cells).astype(np.float32)))
    return sparse.csr_matrix(sparse.vstack(drawn))
