"""Cells named from the texts of labels, without training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.slots import refuse_not_finite
from scfoundry.stats.adaptation import adapted, adapted_fit
from scfoundry.stats.components import principal_components
from scfoundry.tasks.annotation.votes import ALONE, over_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import Embeds, ReadsTexts, TextScores

__all__ = ["clusters", "name_cells"]


def name_cells(
    model: ReadsTexts, cells: Cells, labels: Sequence[Label], *, adapt: bool | None = None, compute: Compute
) -> TextScores:
    """Probability of every label for every cell, and how well the best one fits.

    With ``adapt`` (`None`: as the weights were calibrated) cells that lie together are brought to agree. ``params`` say
    whether they were: fewer than two cells with counts, or cells that are all alike, stay as they are.
    """
    scores = model.score_texts(cells, labels, compute)
    agreed, fit = scores.probabilities, scores.fit
    refuse_not_finite(agreed, "the scores of the labels", caller="zero_shot_annotate")
    if model.adapts if adapt is None else adapt:
        components = principal_components(cells.reader, moments=scores.moments)
        agreed = adapted(scores.probabilities, components, model.adapted_temperature)
        fit = None if fit is None else adapted_fit(fit, components, cells.by_name)
    params = {**scores.params, "adapt": agreed is not scores.probabilities}
    return replace(scores, probabilities=agreed, fit=fit, params=params)


def clusters(model: Embeds, cells: Cells, compute: Compute) -> NDArray[np.int64]:
    """Small clusters of the model's embedding, by number, `ALONE` for cells without counts, (n_obs,)."""
    latent = model.embed(cells, compute)
    refuse_not_finite(latent, "the embedding", caller="zero_shot_annotate")
    groups = np.full(cells.n_obs, ALONE)
    # In the order of names, so that the order of cells plays no part.
    present = cells.by_name[~cells.empty[cells.by_name]]
    groups[present] = over_cluster(latent[present])
    return groups
