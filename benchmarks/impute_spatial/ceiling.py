"""What correlation the noise of spatial counts leaves to a prediction without error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import scfoundry as sf
from scfoundry.stats.similarity import attainable

if TYPE_CHECKING:
    from benchmarks.impute_spatial.tasks import Task

__all__ = ["ceiling"]

N_HALVINGS = 10


def ceiling(task: Task, seed: int) -> dict[str, float]:
    """Means over target genes of the correlations that expected counts would have with those measured.

    Every count falls into one of two halves by chance. If counts are Poisson, the halves are independent given what is
    expected of a spot, so that their correlation is the reliability of a half.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(N_HALVINGS):
        half = rng.binomial(task.truth.astype(np.int64), 0.5)
        scores = sf.metrics.imputation(half, task.truth - half, log1p=True, library=task.library)
        found.append(scores[["pearson", "partial_pearson"]].fillna(0).to_numpy())
    varies = np.ptp(task.truth, axis=0) > 0
    means = attainable(np.mean(found, axis=0))[varies].mean(axis=0)
    return {"pearson": float(means[0]), "partial_pearson": float(means[1])}
