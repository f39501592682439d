"""How much a latent adds to the components of the data: what its neighbours tell of genes that it was not shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry.stats.splits import at_most
from scfoundry.tasks.embedding.own_components import OwnComponents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.cells import Cells

__all__ = ["latent_weight"]

# Lengths of the latent beside components of length 1: however well it predicts, the data's own components come first.
WEIGHTS = (0.0, 0.25, 0.5)
MAX_CELLS, MIN_CELLS = 2000, 100
N_NEIGHBORS = 15
CELLS_PER_BLOCK = 500
TINY = 1e-12


def latent_weight(model: Any, cells: Cells, genes: GeneVocabulary, compute: Compute) -> tuple[float, dict[str, float]]:
    """Weight of the latent of a model beside components of length 1, and what each weight explains.

    Genes are divided into two halves. Neighbours by one half, its components and the latent of cells that show only
    these genes, predict where a cell lies among the components of the other half, and the reverse: no label is needed.
    Of all weights the smallest counts that is no worse than the best by more than a standard error. Cells too few to
    tell take the greatest.
    """
    codes = np.empty(cells.n_obs, dtype=np.int64)
    for number, context in enumerate(sorted(cells.contexts, key=lambda context: context.name)):
        codes[context.rows] = number
    rows = at_most(MAX_CELLS, codes, cells.by_name[~cells.empty[cells.by_name]], np.random.default_rng(0))
    if len(rows) < MIN_CELLS:
        return WEIGHTS[-1], {}
    few = cells.take(np.sort(rows))
    few = few.take(few.by_name)
    halves = [np.arange(start, len(genes), 2) for start in range(2)]
    parts = [OwnComponents.fit(few, genes, half) for half in halves]
    places = [scaled(part.project(few, half)) for part, half in zip(parts, halves, strict=True)]
    latents = [scaled(model.embed(few.only(_known(few, genes, half)), compute)) for half in halves]
    errors = np.stack([_errors(places, latents, weight) for weight in WEIGHTS])  # (weights, n)
    best = errors[errors.mean(1).argmin()]
    worse = errors - best
    within = worse.mean(1) <= worse.std(1) / np.sqrt(errors.shape[1])
    explained = {f"{weight:g}": float(1 - error) for weight, error in zip(WEIGHTS, errors.mean(1), strict=True)}
    return WEIGHTS[int(within.argmax())], explained


def scaled(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points (n, d) from their mean, of root mean squared length 1."""
    centered = points - points.mean(0, dtype=np.float64)
    return centered / max(float(np.sqrt(np.square(centered).sum(1).mean())), TINY)


def _known(cells: Cells, genes: GeneVocabulary, half: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions in the model's vocabulary of genes of which all columns are in a half."""
    alignment = cells.source.alignment  # type: ignore[union-attr]
    shown = np.isin(genes.index_of(alignment.names), half)
    return np.setdiff1d(alignment.target[shown], alignment.target[~shown])


def _errors(
    places: Sequence[NDArray[np.float64]], latents: Sequence[NDArray[np.float64]], weight: float
) -> NDArray[np.float64]:
    """Squared error of every cell's place in either half, predicted by its neighbours in the other, (n,)."""
    errors = np.zeros(len(places[0]))
    for place, latent, other in zip(places, latents, places[::-1], strict=True):
        points = np.c_[place, weight * latent]
        squares = np.square(points).sum(1)
        for start in range(0, len(points), CELLS_PER_BLOCK):
            some = np.arange(start, min(start + CELLS_PER_BLOCK, len(points)))
            distance = squares - 2 * points[some] @ points.T
            distance[np.arange(len(some)), some] = np.inf
            nearest = np.argpartition(distance, N_NEIGHBORS, axis=1)[:, :N_NEIGHBORS]
            errors[some] += np.square(other[some] - other[nearest].mean(1)).sum(1) / 2
    return errors
