"""A model that has not seen some studies, and what it says of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from recipes.corpus import build, labelled
from recipes.train_cellnamer_mini import train

from benchmarks.command import load_model
from scfoundry._device import Compute
from scfoundry.data.labels.hierarchy import is_kind_of
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.matrix.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from benchmarks.zero_shot_annotate.tasks import Task
    from scfoundry.data.labels import Label
    from scfoundry.model._capabilities import TextScores

__all__ = ["TRAINED_HERE", "LeftOut", "read_markers"]

TRAINED_HERE = "cellnamer-mini"
"""Weights whose recipe takes minutes: they are trained anew without the studies that are scored."""


def read_markers(path: Path) -> dict[str, list[str]]:
    """Symbols of the human marker genes of every type, by its Cell Ontology id, from a PanglaoDB table."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    table = table[table["species"].str.contains("Hs")]
    ids = pd.read_csv(Path(__file__).with_name("marker_types.tsv"), sep="\t")[["type", "id"]]
    merged = table.merge(ids, left_on="cell type", right_on="type")
    return {i: sorted(set(symbols)) for i, symbols in merged.groupby("id")["official gene symbol"]}


class LeftOut:
    """A model trained on the corpus without some studies by the recipe; or weights as they are.

    Parameters
    ----------
    folder
        Data.
    studies
        Those to leave out.
    weights
        Name or folder, which should not know the studies; of `TRAINED_HERE` the recipe.
    seed
        Of the corpus and of the training.
    """

    def __init__(self, folder: Path, studies: Sequence[str], weights: str, seed: int) -> None:
        self.ontology, self.compute = CellOntology.load(), Compute.resolve("cpu")
        self.corpus = labelled(build(folder, hold_out=studies, seed=seed)[0])
        self.model = train(self.corpus, seed) if weights == TRAINED_HERE else load_model(weights)

    def cells(self, task: Task, counts: csr_matrix | None = None) -> Cells:
        """The cells as the model reads them, or other values of the same genes."""
        adata = task.adata if counts is None else AnnData(counts, obs=task.adata.obs, var=task.adata.var)
        return Cells.of(adata, self.model.genes, caller="benchmark")

    def scores(self, cells: Cells, labels: Sequence[Label]) -> TextScores:
        """Each cell by itself."""
        return self.model.score_texts(cells, labels, self.compute)

    def labels(self, task: Task) -> list[Label]:
        """Offered labels with the texts that the model reads."""
        return task.labels(self.ontology, several_texts=self.model.averages_prompts)

    def seen(self, task: Task) -> NDArray[np.bool_]:
        """Whether each label has training cells of its kind."""
        trained = {i for label in self.corpus.obs["cell_type"].unique() for i in label.split("|")}
        return np.array([any(is_kind_of(t, i, self.ontology) for t in trained for i in ids) for ids in task.ids])
