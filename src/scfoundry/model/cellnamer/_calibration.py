"""What probabilities are worth and from when a cell is unknown, by cells that took no part in the training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scfoundry._settings import logger
from scfoundry.data.labels import Label
from scfoundry.data.labels.hierarchy import related
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.matrix.cells import Cells
from scfoundry.metrics import calibration
from scfoundry.stats.adaptation import adapted, adapted_fit
from scfoundry.stats.components import principal_components

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.model._capabilities import ReadsTexts
    from scfoundry.model.cellnamer._corpus import RegisteredCells

__all__ = ["calibrate"]

# Share of cells, all of them of types that are offered, that the threshold for unknown cells spares in every study.
KEEP = 0.96

# Labels that a study's cells are offered beside their own types, for probabilities that hold with many labels too.
MANY = 30

TEMPERATURES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
MIN_CELLS = 50


def calibrate(
    model: ReadsTexts,
    known: Sequence[str],
    registered: RegisteredCells,
    held_out: NDArray[np.int64],
    compute: Compute,
) -> tuple[float, float] | None:
    """Temperature and threshold by held-out cells of one type each, each study as a data set of its own.

    The temperature suits few labels and many: a study's own types, and these among foreign ones that the model has
    ``known``. `None`, with a warning, if there are too few cells.
    """
    fits: list[NDArray[np.float32]] = []
    errors: list[list[float]] = []
    single = {label: ids[0] if len(ids) == 1 else "" for label, ids in registered.types.items()}
    types = np.array([single[label] for label in registered.labels])
    held_out = held_out[types[held_out] != ""]
    for study in range(len(registered.names)):
        cells = held_out[registered.study[held_out] == study]
        own, truth = np.unique(types[cells], return_inverse=True)
        if len(own) > 1:
            data = Cells.of(registered.part(study, cells), model.genes, caller="CellNamer.train")
            fit, errors_of_few = _scored(model, data, own.tolist(), truth, compute)
            _, errors_of_many = _scored(model, data, [*own.tolist(), *_foreign(known, own.tolist())], truth, compute)
            fits.append(fit)
            errors += [errors_of_few, errors_of_many]
    n_cells = sum(map(len, fits))
    if n_cells < MIN_CELLS:
        logger.warning(
            "Of %d held-out cells (at least %d needed) neither the temperature of probabilities nor the threshold for "
            "unknown cells could be fitted; both stay as they were. More cells are held out by validation_size=0.2.",
            n_cells,
            MIN_CELLS,
        )
        return None
    temperature = TEMPERATURES[int(np.mean(errors, axis=0).argmin())]
    # Few cells tell no quantile: small studies count together.
    large = [fit for fit in fits if len(fit) >= MIN_CELLS]
    small = [fit for fit in fits if len(fit) < MIN_CELLS]
    groups = large + ([np.concatenate(small)] if small else [])
    return temperature, float(min(np.quantile(fit, 1 - KEEP) for fit in groups))


def _foreign(known: Sequence[str], own: list[str]) -> list[str]:
    """Up to `MANY` known types that no cell of the own ones can be, from all over the body."""
    foreign = [t for t, near in zip(known, related(own, known, CellOntology.load()), strict=True) if not near]
    return foreign[:: max(1, math.ceil(len(foreign) / MANY))]


def _scored(
    model: ReadsTexts, data: Cells, offered: list[str], truth: NDArray[np.int64], compute: Compute
) -> tuple[NDArray[np.float32], list[float]]:
    """How well the best label fits each cell, and the calibration error at every temperature."""
    ontology = CellOntology.load()
    labels = [
        Label(i, ontology.prompts(ontology[i]), i) if i in ontology else Label(i, (f"cell type: {i}.",))
        for i in offered
    ]
    scores = model.score_texts(data, labels, compute)
    components = principal_components(data.reader, moments=scores.moments)
    errors = []
    for temperature in TEMPERATURES:
        probabilities = adapted(scores.probabilities, components, temperature)
        right = probabilities.argmax(1) == truth
        errors.append(float(calibration(probabilities.max(1).clip(0, 1), right)["ece"]))
    return adapted_fit(np.asarray(scores.fit), components, data.by_name), errors
