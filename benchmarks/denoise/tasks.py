"""Data sets, the counts hidden in them, and the pairs of gene and surface protein."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse, stats

import scfoundry as sf

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["DATA_SETS", "PROTEIN_SET", "protein_correlations", "read"]

DATA_SETS = ("pbmc3k", "pbmc10k_citeseq", "breast_tumour_copykat_302")
PROTEIN_SET = "pbmc10k_citeseq"
# Gene, and the antibody against what it encodes. CD3 antibodies bind CD3E, which this file does not measure.
PROTEINS = {
    "CD3D": "CD3",
    "CD4": "CD4",
    "CD8A": "CD8a",
    "CD14": "CD14",
    "FCGR3A": "CD16",
    "MS4A1": "CD19",
    "CD19": "CD19",
    "NCAM1": "CD56",
}


def read(folder: Path, name: str, genes: GeneVocabulary) -> ad.AnnData:
    """Counts of the genes that the model knows and the data detect, as published."""
    stored = ad.read_h5ad(folder / f"{name}.h5ad")
    counts = genes.align(stored).apply(sparse.csr_matrix(stored.X))
    detected = np.flatnonzero(np.asarray(counts.sum(0)).ravel())
    cells = ad.AnnData(counts[:, detected], obs=pd.DataFrame(index=stored.obs_names), obsm=dict(stored.obsm))
    cells.var_names = genes.ids[detected]
    return cells


def protein_correlations(cells: ad.AnnData, expected: NDArray[np.float32]) -> pd.DataFrame:
    """Correlation of every gene's log expression with the log counts of its protein, over all cells."""
    symbols = sf.datasets.human_genes()["symbol"].reindex(cells.var_names)
    totals = expected.sum(1)
    rows = {}
    for gene, protein in PROTEINS.items():
        column = np.flatnonzero(symbols.to_numpy() == gene)
        rna = np.log1p(1e4 * expected[:, column[0]] / totals)
        surface = np.log1p(cells.obsm["protein"][protein].to_numpy(dtype=float))
        rows[f"{gene} - {protein}"] = {
            "spearman": float(stats.spearmanr(rna, surface).statistic),
            "pearson": float(np.corrcoef(rna, surface)[0, 1]),
        }
    return pd.DataFrame(rows).T
