"""A scorer trained without a study, and what it says about that study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from langcell_mini.corpus import choose_vocabulary
from langcell_mini.training import Settings, train

from scfoundry.model.langcell._expression import GeneMoments
from scfoundry.model.langcell._kinship import is_kind_of
from scfoundry.model.langcell._scorer import LabelScores
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langcell_mini.corpus import LabelledSet
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.ontology import CellOntology
    from scfoundry.model.langcell._scorer import CellTypeScorer, Label
    from zero_shot.tasks import Task

__all__ = ["Corpus", "LeftOut"]

BLOCK = 1024


@dataclass(frozen=True)
class Corpus:
    """All labelled studies over all human genes, the marker sets, the ontology."""

    sets: list[LabelledSet]
    markers: Mapping[str, NDArray[np.int64]]
    genes: GeneVocabulary
    ontology: CellOntology
    n_genes: int = 7000

    def without(self, name: str) -> tuple[list[LabelledSet], dict[str, NDArray[np.int64]], GeneVocabulary]:
        """All but one study, the marker sets and the vocabulary, chosen without that study."""
        sets = [study for study in self.sets if study.name != name]
        chosen = choose_vocabulary(sets, dict(self.markers), self.n_genes)
        position = np.full(len(self.genes), -1)
        position[chosen] = np.arange(len(chosen))
        markers = {i: found for i, at in self.markers.items() if len(found := position[at][position[at] >= 0])}
        return [study.subset(chosen) for study in sets], markers, self.genes.subset(chosen)


class LeftOut:
    """A scorer trained on all studies but one.

    Parameters
    ----------
    corpus
        The studies.
    name
        The one to leave out.
    seed
        Of the training.
    settings
        Of the training.
    """

    def __init__(self, corpus: Corpus, name: str, seed: int, settings: Settings | None = None) -> None:
        self.ontology = corpus.ontology
        self.sets, self.markers, self.genes = corpus.without(name)
        self.scorer: CellTypeScorer = train(self.sets, self.markers, corpus.ontology, seed=seed, settings=settings)

    def expression(self, task: Task, counts: csr_matrix | None = None) -> tuple[Tensor, Tensor, GeneMoments]:
        """Log expression of the cells, (n, G), which genes are measured, and the moments of the data set."""
        scale = self.scorer.scale
        alignment = self.genes.align(task.adata, min_overlap=0)
        measured = torch.zeros(len(self.genes), dtype=torch.bool)
        measured[torch.from_numpy(alignment.measured).long()] = True
        aligned = SparseCounts.from_csr(alignment.apply(task.adata.X if counts is None else counts))
        expression = scale.log_expression(aligned, measured)
        moments = GeneMoments(len(self.genes))
        moments.update(expression)
        return expression, measured, moments

    def standardised(self, task: Task, counts: csr_matrix | None = None) -> tuple[Tensor, Tensor]:
        """Z-scores of the cells, (n, G), and which genes are measured."""
        expression, measured, moments = self.expression(task, counts)
        return self.scorer.scale(expression, measured, moments), measured

    def seen(self, task: Task) -> list[bool]:
        """Whether each label has training cells of its kind."""
        trained = {i for study in self.sets for label, ids in study.types.items() if label in study.labels for i in ids}
        return [any(is_kind_of(t, i, self.ontology) for t in trained for i in ids) for ids in task.ids]

    @torch.no_grad()
    def scores(self, task: Task, z: Tensor, measured: Tensor, labels: list[Label] | None = None) -> LabelScores:
        """Scores of the cells for the offered labels, or for some others."""
        plan = self.scorer.plan(labels or task.labels(self.ontology), self.ontology)
        parts = [self.scorer(block, measured, plan) for block in z.split(BLOCK)]
        return LabelScores(torch.cat([part.logits for part in parts]), torch.cat([part.outside for part in parts]))
