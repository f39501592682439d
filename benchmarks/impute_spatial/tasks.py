"""Spatial sets with their references, and the genes that are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
from scipy import sparse

import scfoundry as sf

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["PAIRS", "Task", "read_task"]

# Spatial set, reference, column of the sections.
PAIRS = {
    "pancreas tumour, same tumour": ("pdac_a_st", "pdac_a_indrop", None),
    "breast tumour, 4 sections": ("breast_cancer_st_layers", "breast_cancer_wu_cid4465", "section"),
    "breast tumours, 6 patients": ("her2_breast_st_sections6", "breast_cancer_wu_cid4465", "section"),
    "lymph node": ("lymph_node_visium", "lymph_node_ref_330", None),
}


@dataclass(frozen=True)
class Task:
    """One hold-out of genes.

    Attributes
    ----------
    spots
        Spatial data without the target genes; var_names are Ensembl ids.
    cells
        Reference with all its genes.
    shared
        Genes of the panel that the reference has, too.
    targets
        Genes held out.
    truth
        Their counts in the spots, (n_spots, n_targets).
    sections
        Section of every spot.
    """

    spots: AnnData
    cells: AnnData
    shared: list[str]
    targets: list[str]
    truth: NDArray[np.float32]
    sections: NDArray[np.str_]

    @property
    def library(self) -> NDArray[np.float32]:
        """Counts of the panel in every spot."""
        return np.ravel(self.spots.X.sum(1))


def read_task(folder: Path, pair: str, genes: GeneVocabulary, seed: int) -> Task:
    """Hold out up to 100 genes that both data sets measure and the model knows, by the published strata of sparsity."""
    spatial, reference, section = PAIRS[pair]
    spots, cells = (_counts(folder / f"{name}.h5ad", genes) for name in (spatial, reference))
    shared = spots.var_names.intersection(cells.var_names, sort=False)
    targets = sf.pp.holdout_genes(spots[:, shared], rng=seed).index.tolist()
    truth = spots[:, targets].X.toarray()
    sections = np.zeros(spots.n_obs, dtype=str) if section is None else spots.obs[section].astype(str).to_numpy()
    spots.obs["section"] = sections
    panel = spots.var_names.difference(targets, sort=False)
    return Task(
        spots[:, panel].copy(), cells, shared.difference(targets, sort=False).tolist(), targets, truth, sections
    )


def _counts(path: Path, genes: GeneVocabulary) -> AnnData:
    """Counts over the genes that the model knows, by their ids: the same for all methods."""
    adata = ad.read_h5ad(path)
    alignment = genes.align(adata)
    counts = alignment.apply(sparse.csr_matrix(adata.X))[:, alignment.measured]
    known = ad.AnnData(counts, obs=adata.obs)
    known.var_names = genes.ids[alignment.measured]
    if "spatial" in adata.obsm:
        known.obsm["spatial"] = np.asarray(adata.obsm["spatial"], dtype=np.float32)
    return known
