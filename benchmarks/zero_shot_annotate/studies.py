"""A model that has not seen a study, and what it says of that study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from anndata import AnnData
from recipes.cellnamer_mini import corpus as recipe

import scfoundry as sf
from benchmarks.command import load_model
from scfoundry._device import Compute
from scfoundry.data.labels.hierarchy import is_kind_of
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.matrix.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from benchmarks.zero_shot_annotate.tasks import Task
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels import Label
    from scfoundry.model._capabilities import TextScores

__all__ = ["TRAINED_HERE", "Corpus", "LeftOut"]

TRAINED_HERE = "cellnamer-mini"
"""Weights whose recipe takes a minute: they are trained anew without every study."""

TABLES = Path(recipe.__file__).parent
N_GENES = 7000


@dataclass(frozen=True)
class Corpus:
    """All labelled studies over all human genes, symbols of marker genes by type."""

    studies: Sequence[AnnData]
    markers: Mapping[str, list[str]]
    genes: GeneVocabulary

    @classmethod
    def read(cls, folder: Path, markers: Path) -> Self:
        """As the recipe reads them."""
        genes = recipe.human_genes()
        studies = recipe.read_studies(folder, recipe.read_labels(TABLES / "labels.tsv"), genes, [])
        return cls(studies, recipe.read_markers(markers, TABLES / "marker_types.tsv"), genes)


class LeftOut:
    """A model trained on all studies but one by the recipe; or weights as they are, which should not know the study.

    Parameters
    ----------
    corpus
        The studies.
    name
        The one to leave out.
    weights
        Name or folder; of `TRAINED_HERE` the recipe.
    seed
        Of the training.
    """

    def __init__(self, corpus: Corpus, name: str, weights: str, seed: int) -> None:
        self.studies = [study for study in corpus.studies if study.obs["study"].iloc[0] != name]
        self.markers, self.ontology, self.compute = corpus.markers, CellOntology.load(), Compute.resolve("cpu")
        self.model = self._trained(corpus, seed) if weights == TRAINED_HERE else load_model(weights)

    def _trained(self, corpus: Corpus, seed: int) -> sf.model.CellNamer:
        genes = recipe.choose_genes(self.studies, dict(self.markers), corpus.genes, N_GENES)
        cells = recipe.joined(self.studies)
        sf.model.CellNamer.setup_anndata(cells, labels_key="cell_type", batch_key="study")
        model = sf.model.CellNamer(cells, genes=genes, markers=self.markers, seed=seed)
        model.train(validation_size=0, seed=seed, accelerator="cpu")
        return model

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
        named = {label for study in self.studies for label in study.obs["cell_type"].unique()}
        trained = {i for label in named for i in label.split("|")}
        return np.array([any(is_kind_of(t, i, self.ontology) for t in trained for i in ids) for ids in task.ids])
