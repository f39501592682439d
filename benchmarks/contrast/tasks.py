"""Labelled cells to learn from with texts, and others to name, some of them of types that are not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from recipes.corpus import TABLES, read_labels
from scipy import sparse
from sklearn.metrics import average_precision_score

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.matrix.cells import Cells

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["SETS", "TYPE", "Task", "read", "scores"]

TYPE = "cell_type"
# File and the column with its labels.
SETS = {"pancreas_islet_baron_h1": "cell_type", "liver_he_2839": "cell_type", "pbmc_hao_1336": "cell_type"}
# Most cells of a type of a set to learn from, and to name; types of fewer cells are left out.
MOST_CELLS, LEAST_CELLS = 100, 10
# Share of the types of a set that are not learned from.
UNSEEN = 0.25


@dataclass(frozen=True)
class Task:
    """Cells over one vocabulary with ``obs["cell_type"]``, ids of the Cell Ontology, and ``obs["set"]``."""

    learned: AnnData
    named: AnnData

    @property
    def unseen(self) -> set[str]:
        """Types to name that are not learned from."""
        return set(self.named.obs[TYPE]) - set(self.learned.obs[TYPE])


def read(folder: Path, genes: GeneVocabulary, seed: int) -> Task:
    """Divide the cells of all sets, at random by type."""
    rng = np.random.default_rng(seed)
    terms = read_labels(TABLES, folder)
    cells = ad.concat([_cells(folder, name, terms[name], genes) for name in SETS])
    types = np.sort(cells.obs[TYPE].unique())
    unseen = set(rng.permutation(types)[: round(UNSEEN * len(types))])
    learned, named = [], []
    for (_, term), rows in sorted(cells.obs.groupby(["set", TYPE], observed=True).indices.items()):
        shuffled = rng.permutation(rows)
        half = 0 if term in unseen else len(rows) // 2
        learned.append(shuffled[:half][:MOST_CELLS])
        named.append(shuffled[half:][:MOST_CELLS])
    return Task(*(cells[np.sort(np.concatenate(rows))].copy() for rows in (learned, named)))


def _cells(folder: Path, name: str, terms: dict[str, str], genes: GeneVocabulary) -> AnnData:
    """Cells of one set of which each has one type that the ontology knows."""
    adata, ontology = ad.read_h5ad(folder / f"{name}.h5ad"), CellOntology.load()
    types = adata.obs[SETS[name]].astype(str).map(terms)
    types = types.where(types.isin([term for term in types.dropna().unique() if term in ontology]))
    kept = (types.map(types.value_counts()) >= LEAST_CELLS).to_numpy()
    adata, types = adata[kept], types[kept]
    counts = genes.align(adata).apply(sparse.csr_matrix(adata.X).astype(np.float32))
    obs = pd.DataFrame({TYPE: types.to_numpy(), "set": name}, index=[f"{name}:{cell}" for cell in adata.obs_names])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes.ids))


def scores(model: sf.model.LangCell, task: Task) -> dict[str, float]:
    """How cells are named by similarity among the types of their set, and found by the text of a type; means of sets.

    Accuracy over cells and over types, of all and of unseen types; mean average precision of cells for a text.
    """
    ontology, compute = CellOntology.load(), Compute.resolve("cpu")
    rows = []
    for name in SETS:
        cells = task.named[(task.named.obs["set"] == name).to_numpy()]
        truth = cells.obs[TYPE].astype(str).to_numpy()
        types = sorted(set(truth))
        labels = [Label(term, tuple(ontology.prompts(ontology[term])), term) for term in types]
        found = model.copy(alpha=1.0).score_texts(Cells.of(cells, model.genes, caller="benchmark"), labels, compute)
        ranked = sf.metrics.retrieval(pd.DataFrame(found.similarity, columns=types), truth, k=1)
        unseen = np.isin(truth, list(task.unseen))
        by_text = [average_precision_score(truth == term, found.similarity[:, i]) for i, term in enumerate(types)]
        rows.append(ranked[["recall@1", "macro_recall@1", "mrr"]].to_dict())
        rows[-1] |= {"map": float(np.mean(by_text))}
        if unseen.any():
            right = np.array(types)[found.similarity.argmax(1)] == truth
            rows[-1] |= {"unseen": float(pd.Series(right[unseen]).groupby(truth[unseen]).mean().mean())}
    return {measure: float(value) for measure, value in pd.DataFrame(rows).mean().items()}
