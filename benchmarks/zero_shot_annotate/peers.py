"""What a zero-shot model has to beat: scores of marker genes, and a classifier of the same training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from scfoundry.data.labels.hierarchy import claims, nearest
from scfoundry.model.cellnamer._expression import standardise
from scfoundry.model.cellnamer._markers import match
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from zero_shot.studies import LeftOut
    from zero_shot.tasks import Task

__all__ = ["LogisticPeer", "marker_scores"]

MAX_PER_TYPE = 50


def marker_scores(left_out: LeftOut, task: Task) -> dict[str, NDArray[np.int64]]:
    """Labels by the mean z-score of their PanglaoDB markers, standardised by the test set and by the training data."""
    expression, measured, moments = left_out.expression(task)
    sets = {i: torch.zeros(expression.shape[1]) for i in left_out.markers}
    for identifier, genes in left_out.markers.items():
        sets[identifier][torch.from_numpy(genes)] = 1 / len(genes)
    profiles = torch.zeros(len(task.ids), expression.shape[1])
    for row, ids in enumerate(task.ids):
        for identifier in ids:
            for stand_in, weight in nearest(identifier, list(sets), left_out.ontology):
                profiles[row] += weight / len(ids) * sets[stand_in]
    scale = left_out.scorer.scale
    by = {"test set": (moments.mean, moments.sd), "training data": (scale.mean, scale.sd)}
    return {
        f"markers, z by the {name}": match(standardise(expression, *stats) * measured, measured, profiles)
        .argmax(1)
        .numpy()
        for name, stats in by.items()
    }


class LogisticPeer:
    """Multinomial logistic regression on z-scores of up to 50 cells per label and study; labels add up their kinds."""

    def __init__(self, left_out: LeftOut) -> None:
        self.left_out = left_out
        rng = np.random.default_rng(0)
        z, labels = [], []
        for study in left_out.sets:
            measured = torch.from_numpy(study.measured)
            for label, ids in study.types.items():
                cells = rng.permutation(np.flatnonzero(study.labels == label))[:MAX_PER_TYPE]
                if len(cells) and len(ids) == 1:
                    z.append(self._z(SparseCounts.from_csr(study.counts[cells]), measured))
                    labels += [ids[0]] * len(cells)
        self.model = LogisticRegression(C=1e-2, max_iter=60, tol=1e-3).fit(torch.cat(z).numpy(), labels)

    def predict(self, task: Task) -> NDArray[np.int64]:
        """Position of the label of every cell."""
        expression, measured, _ = self.left_out.expression(task)
        scale = self.left_out.scorer.scale
        probability = self.model.predict_proba((standardise(expression, scale.mean, scale.sd) * measured).numpy())
        shares, _ = claims(task.ids, list(self.model.classes_), self.left_out.ontology)
        return (probability @ shares.T).argmax(1)

    def _z(self, counts: SparseCounts, measured: Tensor) -> Tensor:
        scale = self.left_out.scorer.scale
        return standardise(scale.log_expression(counts, measured), scale.mean, scale.sd) * measured
