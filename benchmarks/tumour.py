"""Cells of tumours and of normal tissue: what is malignant in a tumour, and counts over the genes of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from recipes.corpus import TABLES, whole_numbers
from scipy import sparse

from scfoundry.data.matrix.cells import Cells

if TYPE_CHECKING:
    from pathlib import Path

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["MALIGNANT", "drawn", "read"]

# Study -> labels of its malignant cells, where its authors tell them from the normal cells of the same tumour.
MALIGNANT = {
    "oligodendroglioma_184": ("malignant",),
    "breast_cancer_wu_cid4465": ("Cancer Epithelial",),
    "pdac_a_indrop": ("Cancer clone A", "Cancer clone B"),
}


def read(folder: Path, study: str, vocabulary: GeneVocabulary) -> ad.AnnData:
    """Counts over the genes that a study measured and the vocabulary knows, and ``obs["malignant"]``."""
    stored = ad.read_h5ad(folder / f"{study}.h5ad")
    kinds = pd.read_csv(TABLES / "studies.tsv", sep="\t", index_col="file", dtype=str)["values"]
    counts = whole_numbers(sparse.csr_matrix(stored.X).astype(np.float32), kinds[study])
    cells = Cells.of(ad.AnnData(counts, stored.obs, stored.var), vocabulary, caller="benchmark")
    labels = stored.obs["cell_type"].astype(str) if "cell_type" in stored.obs else pd.Series("", stored.obs_names)
    obs = pd.DataFrame({"malignant": labels.isin(MALIGNANT.get(study, ())), "study": study})
    measured = pd.DataFrame(index=vocabulary.ids[cells.measured])
    return ad.AnnData(cells.read()[:, cells.measured], obs.rename(index=f"{study}:{{}}".format), measured)


def drawn(cells: ad.AnnData, most: int, seed: int) -> ad.AnnData:
    """Some cells at random, in their order."""
    rows = np.random.default_rng(seed).permutation(cells.n_obs)[:most]
    return cells[np.sort(rows)].copy()
