"""A scorer trained without a study, and what it says about that study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from langcell_mini.corpus import choose_vocabulary
from langcell_mini.saving import as_model
from scfoundry.model.cellnamer._course import Settings, train

from scfoundry.data.labels.hierarchy import is_kind_of
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.model.cellnamer._expression import GeneMoments
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scfoundry.model.cellnamer._studies import LabelledSet
    from scipy.sparse import csr_matrix
    from torch import Tensor
    from zero_shot.tasks import Task

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels.ontology import CellOntology
    from scfoundry.model.cellnamer._module import CellTypeScorer, OfferedLabel
    from scfoundry.model.langcell._matching import ZeroShot

__all__ = ["Corpus", "LeftOut"]

CPU = torch.device("cpu")


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
        self.model = as_model(self.scorer, self.genes)

    def reader(self, task: Task, counts: csr_matrix | None = None) -> CountsReader:
        """The cells as the model reads them, or other values of the same genes."""
        adata = task.adata if counts is None else AnnData(counts, var=task.adata.var)
        return CountsReader(adata, self.genes, caller="benchmark")

    def judge(self, task: Task, reader: CountsReader, labels: list[OfferedLabel] | None = None) -> ZeroShot:
        """Each cell by itself, for the offered labels or for some others."""
        labels = task.labels(self.ontology) if labels is None else labels
        return self.model.reading.score(reader, labels, batch_size=None, device=CPU, precision="float32")

    def expression(self, task: Task) -> tuple[Tensor, Tensor, GeneMoments]:
        """Log expression of the cells, (n, G), which genes are measured, and the moments of the data set."""
        reader = self.reader(task)
        measured = torch.zeros(len(self.genes), dtype=torch.bool)
        measured[torch.from_numpy(reader.alignment.measured).long()] = True
        counts = SparseCounts.from_csr(reader.read(np.arange(reader.n_obs)))
        expression = self.scorer.scale.log_expression(counts, measured)
        moments = GeneMoments(len(self.genes))
        moments.update(expression)
        return expression, measured, moments

    def seen(self, task: Task) -> list[bool]:
        """Whether each label has training cells of its kind."""
        trained = {i for study in self.sets for label, ids in study.types.items() if label in study.labels for i in ids}
        return [any(is_kind_of(t, i, self.ontology) for t in trained for i in ids) for ids in task.ids]
