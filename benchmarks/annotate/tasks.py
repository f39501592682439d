"""References and queries that differ in technology or study, their labels in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

__all__ = ["LABEL", "Split", "splits"]

LABEL = "label"
PBMC_LABELS = Path(__file__).with_name("pbmc_labels.tsv")


@dataclass(frozen=True)
class Split:
    """Cells to learn from, cells to name.

    Attributes
    ----------
    name
        What was measured how.
    reference, query
        Raw counts with ``obs["label"]``; every label of the query is one of the reference.
    """

    name: str
    reference: AnnData
    query: AnnData

    @property
    def sizes(self) -> dict[str, int | str]:
        """Cells, labels and shared genes."""
        shared = self.reference.var_names.intersection(self.query.var_names)
        sizes = {"reference": self.reference.n_obs, "query": self.query.n_obs}
        return {"split": self.name, **sizes, "labels": self.reference.obs[LABEL].nunique(), "genes": len(shared)}


def splits(folder: Path) -> Iterator[Split]:
    """All splits of three studies.

    Parameters
    ----------
    folder
        Holds ``pbmc_3tech_1200.h5ad``, ``cell_lines_mixology.h5ad``, ``pbmc3k.h5ad``, ``pbmc10k_citeseq.h5ad``.
    """
    blood = _labelled(ad.read_h5ad(folder / "pbmc_3tech_1200.h5ad"))
    for chemistry in sorted(blood.obs["batch"].unique()):
        chosen = (blood.obs["batch"] == chemistry).to_numpy()
        yield _split(f"blood, other 10x chemistries to {chemistry}", blood[~chosen], blood[chosen])

    lines = ad.read_h5ad(folder / "cell_lines_mixology.h5ad")
    # A doublet has no single right label.
    lines = _labelled(lines[lines.obs["demuxlet_class"] == "SNG"])
    for reference, query in (("CEL-seq2", "Drop-seq"), ("Drop-seq", "CEL-seq2")):
        of = {name: (lines.obs["technology"] == name).to_numpy() for name in (reference, query)}
        yield _split(f"lung cancer lines, {reference} to {query}", lines[of[reference]], lines[of[query]])

    shared = pd.read_csv(PBMC_LABELS, sep="\t", index_col="pbmc3k")["shared"]
    reference, query = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("pbmc3k", "pbmc10k_citeseq"))
    reference.obs[LABEL] = reference.obs["cell_type"].astype(str).map(shared)
    reference = reference[reference.obs[LABEL].notna().to_numpy()]
    query = _labelled(query[query.obs["cell_type"] != "unassigned"])
    yield _split("blood, labels by RNA to labels by surface protein", reference, query)


def _labelled(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.obs[LABEL] = adata.obs["cell_type"].astype(str)
    return adata


def _split(name: str, reference: AnnData, query: AnnData) -> Split:
    known = np.isin(query.obs[LABEL], reference.obs[LABEL].unique())
    return Split(name, reference.copy(), query[known].copy())
