"""A CellNamer trained without a study, and what it says about that study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from cellnamer_mini.corpus import choose_genes, joined

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.labels.hierarchy import is_kind_of
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.cellnamer._expression import GeneMoments
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scipy.sparse import csr_matrix
    from torch import Tensor
    from zero_shot.tasks import Task

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels import Label
    from scfoundry.data.labels.ontology import CellOntology
    from scfoundry.model._capabilities import TextScores

__all__ = ["Corpus", "LeftOut"]

CPU = Compute.resolve("cpu", "float32")


@dataclass(frozen=True)
class Corpus:
    """All labelled studies over all human genes, the marker sets, the ontology."""

    studies: Sequence[AnnData]
    markers: Mapping[str, Sequence[str]]
    genes: GeneVocabulary
    ontology: CellOntology
    n_genes: int = 7000


class LeftOut:
    """A model trained on all studies but one, by the steps of the recipe; the vocabulary is chosen without it, too.

    Parameters
    ----------
    corpus
        The studies.
    name
        The one to leave out.
    seed
        Of the training.
    """

    def __init__(self, corpus: Corpus, name: str, seed: int) -> None:
        self.ontology = corpus.ontology
        self.studies = [study for study in corpus.studies if study.obs["study"].iloc[0] != name]
        self.genes = choose_genes(self.studies, corpus.markers, corpus.genes, corpus.n_genes)
        cells = joined(self.studies)
        sf.model.CellNamer.setup_anndata(cells, labels_key="cell_type", batch_key="study")
        self.model = sf.model.CellNamer(cells, genes=self.genes, markers=corpus.markers, seed=seed)
        self.model.train(validation_size=0, seed=seed, accelerator="cpu")
        self.scale = self.model.module.scale
        self.markers = {i: self.genes.index_of(listed) for i, listed in self.model.config.markers.items()}

    def cells(self, task: Task, counts: csr_matrix | None = None) -> Cells:
        """The cells as the model reads them, or other values of the same genes."""
        adata = task.adata if counts is None else AnnData(counts, obs=task.adata.obs, var=task.adata.var)
        return Cells.of(adata, self.genes, caller="benchmark")

    def score(self, task: Task, cells: Cells, labels: Sequence[Label] | None = None) -> TextScores:
        """Each cell by itself, for the offered labels or for some others."""
        return self.model.score_texts(cells, task.labels(self.ontology) if labels is None else labels, CPU)

    def expression(self, task: Task) -> tuple[Tensor, Tensor, GeneMoments]:
        """Log expression of the cells, (n, G), which genes are measured, and the moments of the data set."""
        cells = self.cells(task)
        measured = torch.zeros(len(self.genes), dtype=torch.bool)
        measured[torch.from_numpy(cells.measured)] = True
        expression = self.scale.log_expression(SparseCounts.from_csr(cells.read()), measured)
        moments = GeneMoments(len(self.genes))
        moments.update(expression)
        return expression, measured, moments

    def seen(self, task: Task) -> list[bool]:
        """Whether each label has training cells of its kind."""
        trained = {i for study in self.studies for label in study.obs["cell_type"].unique() for i in label.split("|")}
        return [any(is_kind_of(t, i, self.ontology) for t in trained for i in ids) for ids in task.ids]

    def of_study(self, study: AnnData) -> tuple[csr_matrix, Tensor]:
        """Counts of a training study over the vocabulary, and which of its genes the study measured."""
        position = np.flatnonzero(np.isin(study.var_names, self.genes.ids))
        return study.X[:, position].tocsr(), torch.from_numpy(study.var["measured"].to_numpy()[position])
