"""What a zero-shot model has to beat: scores of marker genes, and a classifier of the same training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from scfoundry.data.labels.hierarchy import claims, nearest
from scfoundry.model.cellnamer._expression import GeneMoments, standardise
from scfoundry.model.cellnamer._markers import match
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from benchmarks.zero_shot_annotate.studies import LeftOut
    from benchmarks.zero_shot_annotate.tasks import Task

__all__ = ["Peers"]

MAX_PER_TYPE = 50


class Peers:
    """Labels by markers and by logistic regression, on the z-scores that CellNamer reads.

    Parameters
    ----------
    left_out
        With a CellNamer trained on its corpus.
    markers
        Symbols of marker genes, by type.
    """

    def __init__(self, left_out: LeftOut, markers: Mapping[str, Sequence[str]]) -> None:
        self.left_out, self.genes, self.scale = left_out, left_out.model.genes, left_out.model.module.scale
        positions = {i: self.genes.index_of(symbols) for i, symbols in markers.items()}
        self.markers = {i: found for i, at in positions.items() if len(found := np.unique(at[at >= 0]))}
        self.regression = self._regression()

    def predict(self, task: Task) -> dict[str, NDArray[np.int64]]:
        """Position of the label of every cell, by method."""
        cells = self.left_out.cells(task)
        measured = torch.zeros(len(self.genes), dtype=torch.bool)
        measured[torch.from_numpy(cells.measured).long()] = True
        expression = self._expression(cells.read(), measured)
        moments = GeneMoments(len(self.genes))
        moments.update(expression)
        by_training = self.scale(expression, measured)
        by_test = standardise(dense(expression), moments.mean, moments.sd) * measured
        profiles = self._profiles(task)
        shares, _ = claims(task.ids, list(self.regression.classes_), self.left_out.ontology)
        return {
            "markers, z by the test set": match(by_test, measured, profiles).argmax(1).numpy(),
            "markers, z by the training data": match(by_training, measured, profiles).argmax(1).numpy(),
            "logistic regression": (self.regression.predict_proba(by_training.numpy()) @ shares.T).argmax(1),
        }

    def _profiles(self, task: Task) -> Tensor:
        """Weights of marker genes of every label; of the nearest types where a type has none."""
        profiles = torch.zeros(len(task.ids), len(self.genes))
        for row, ids in enumerate(task.ids):
            for identifier in ids:
                for stand_in, weight in nearest(identifier, list(self.markers), self.left_out.ontology):
                    genes = self.markers[stand_in]
                    profiles[row, torch.from_numpy(genes)] += weight / len(ids) / len(genes)
        return profiles

    def _regression(self) -> LogisticRegression:
        """Multinomial, of up to 50 cells per label and study."""
        rng, corpus = np.random.default_rng(0), self.left_out.corpus
        z, labels = [], []
        for (study, label), rows in corpus.obs.groupby(["study", "cell_type"], observed=True).indices.items():
            if "|" not in label:
                chosen = rng.permutation(rows)[:MAX_PER_TYPE]
                measured = torch.from_numpy(corpus.varm["measured"][study].to_numpy())
                z.append(self.scale(self._expression(corpus.X[chosen], measured), measured))
                labels += [label] * len(chosen)
        return LogisticRegression(C=1e-2, max_iter=60, tol=1e-3).fit(torch.cat(z).numpy(), labels)

    def _expression(self, counts: csr_matrix, measured: Tensor) -> SparseCounts:
        return self.scale.log_expression(SparseCounts.from_csr(counts), measured)


def dense(expression: SparseCounts) -> Tensor:
    """Log expression, (n, G)."""
    values = expression.values.new_zeros(expression.n_cells, expression.n_genes)
    return values.index_put_((expression.rows, expression.genes), expression.values)
