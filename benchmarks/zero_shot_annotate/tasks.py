"""What is annotated: a study, and the labels that are offered for its cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

from scfoundry.data.labels import Label
from scfoundry.data.labels.hierarchy import related

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.labels.ontology import CellOntology

__all__ = ["FOLDS", "Task", "read_tasks"]

FOLDS = {
    ("pbmc3k", "breast_cancer_wu_cid4465", "liver_he_2839"): (
        "pbmc3k",
        "pbmc68k_reduced",
        "breast_cancer_wu_cid4465",
        "liver_he_2839",
    ),
    ("pbmc10k_citeseq", "lymph_node_ref_330", "pancreas_islet_baron_h1", "pancreas_cepo_528"): (
        "pbmc10k_citeseq",
        "lymph_node_ref_330",
        "pancreas_islet_baron_h1",
    ),
    ("pdac_a_indrop", "breast_tumour_immune_1000"): ("pdac_a_indrop", "breast_tumour_immune_1000"),
}
"""Studies that are left out of a training, of different tissues, and the data sets scored then; 68k PBMC is never
trained on."""

N_LABELS = 30


@dataclass(frozen=True)
class Task:
    """Labels offered for the cells of one data set.

    Attributes
    ----------
    name
        Data set and granularity.
    adata
        Labelled cells.
    truth
        Position of the right label of every cell, (n,).
    offered
        Labels, (P,).
    ids
        Cell Ontology ids that each stands for.
    """

    name: str
    adata: AnnData
    truth: NDArray[np.int64]
    offered: list[str]
    ids: list[tuple[str, ...]]

    def with_whole_body(self, ontology: CellOntology) -> Task:
        """The same cells, offered types of the whole body beside the fitting ones, `N_LABELS` in all.

        Left out are types that cells of the data set may well be though no published label says so, by the column
        ``may_occur_in``, and relatives of the fitting ones.
        """
        table = pd.read_csv(Path(__file__).with_name("whole_body.tsv"), sep="\t", dtype=str, keep_default_na=False)
        fitting = [i for ids in self.ids for i in ids]
        foreign = [
            (row.offered, row.terms)
            for row in table.itertuples()
            if self.name.split(",")[0] not in row.may_occur_in.split()
            and not related(fitting, [row.terms], ontology)[0]
        ][: max(N_LABELS - len(self.offered), 0)]
        offered, ids = [name for name, _ in foreign], [(term,) for _, term in foreign]
        return replace(self, offered=self.offered + offered, ids=self.ids + ids)

    def labels(self, ontology: CellOntology, *, several_texts: bool) -> list[Label]:
        """Offered labels with the texts of their terms: name and definition, then other phrasings if several."""
        labels = []
        for name, ids in zip(self.offered, self.ids, strict=True):
            texts: list[str] = []
            for term in map(ontology.__getitem__, ids):
                texts += [ontology.text(term), *(ontology.prompts(term) if several_texts else ())]
            labels.append(Label(name, tuple(dict.fromkeys(texts)), "|".join(ids)))
        return labels


def read_tasks(folder: Path, names: tuple[str, ...]) -> list[Task]:
    """Tasks on some data sets."""
    table = pd.read_csv(Path(__file__).with_name("tasks.tsv"), sep="\t", dtype=str)
    tasks = []
    for name in names:
        adata = _read(folder, name)
        published = adata.obs["cell_type"].astype(str)
        for granularity, rows in table[table["set"] == name].groupby("granularity", sort=False):
            offered = dict(zip(rows["offered"], rows["terms"], strict=True))
            known = published.isin(rows["label"]).to_numpy()
            right = published[known].map(dict(zip(rows["label"], rows["offered"], strict=True)))
            truth = right.map({label: i for i, label in enumerate(offered)}).to_numpy()
            ids = [tuple(terms.split("|")) for terms in offered.values()]
            tasks.append(Task(f"{name}, {granularity}", adata[known].copy(), truth, list(offered), ids))
    return tasks


def _read(folder: Path, name: str) -> AnnData:
    if name != "pbmc68k_reduced":
        adata = ad.read_h5ad(folder / f"{name}.h5ad")
        adata.X = sparse.csr_matrix(adata.X).astype(np.float32)
        return adata
    shipped = sc.datasets.pbmc68k_reduced()
    adata = shipped.raw.to_adata()
    adata.X = sparse.csr_matrix(adata.X)
    adata.obs["cell_type"] = shipped.obs["bulk_labels"]
    return adata
