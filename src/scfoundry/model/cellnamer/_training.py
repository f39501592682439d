"""Training of a scorer on registered data in two stages: cells alone, then cells and texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from scfoundry._settings import logger
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.model.cellnamer._batches import Batches, fit_scale
from scfoundry.model.cellnamer._calibration import calibrate
from scfoundry.model.cellnamer._cell_objectives import CellCourse
from scfoundry.model.cellnamer._corpus import RegisteredCells
from scfoundry.model.cellnamer._course import Settings, marker_table, n_studies, shown_labels, told_apart
from scfoundry.model.cellnamer._plan import ScorerData, ScorerPlan
from scfoundry.model.cellnamer._text_objectives import TextCourse
from scfoundry.stats.splits import stratified_split
from scfoundry.train.plan import fit, training_only

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scfoundry.model.langcell._model import LangCell
    from scfoundry.model.langcell._training import Stage
    from scfoundry.train.plan import Schedule

__all__ = ["objectives", "train_scorer"]

LEARNING = {1: ("cells",), 2: ("cells", "text", "heads")}
# Rates of the linear head and of log weights of markers, relative to that of the networks.
LINEAR_RATE, MARKER_RATE = 0.35, 7.5
RECIPE = Settings()


def objectives(stage: Stage, *, with_markers: bool) -> tuple[str, ...]:
    """Names of what a stage learns from."""
    if stage == 1:
        return "masked_genes", "cell_cell"
    return ("cell_text", "known_types", "matching") if with_markers else ("cell_text", "known_types")


def train_scorer(
    model: LangCell,
    *,
    stage: Stage,
    loss_weights: Mapping[str, float],
    max_epochs: int | None = None,
    lr: float = RECIPE.lr,
    weight_decay: float = 1e-4,
    warmup_steps: int | None = None,
    schedule: Schedule = "cosine",
    batch_size: int = RECIPE.n_cells,
    validation_size: float,
    seed: int,
    checkpoint_dir: str | Path | None,
    **trainer_kwargs: Any,
) -> None:
    """Train a model on its registered cells; see `LangCell.train`."""
    if batch_size < 1:
        msg = f"batch_size must be at least 1 cell; got {batch_size}."
        raise ValueError(msg)
    registered = RegisteredCells(model)
    scorer = model.module
    _check_types(model, registered)
    if n_empty := int(registered.empty.sum()):
        logger.warning("%d cells without a gene of the vocabulary are left out.", n_empty)
    readable = ~registered.empty if stage == 1 else ~registered.empty & registered.labelled
    rng = np.random.default_rng(seed)
    split = stratified_split(registered.groups, validation_size, np.flatnonzero(readable), rng)
    data, labels = _data(model, registered, split, batch_size=batch_size, stage=stage, seed=seed)
    course: CellCourse | TextCourse
    if stage == 1:
        course = CellCourse(scorer, temperature=RECIPE.temperature)
        other_rates: list[tuple[nn.Module, float]] = [(course.decoders, lr)]
    else:
        how = {"temperature": RECIPE.temperature, "broader": RECIPE.broader, "made_up": data.n_made_up / batch_size}
        apart = told_apart(registered.sets(split[0]), labels)
        course = TextCourse(scorer, labels, data.training, CellOntology.load(), told_apart=apart, **how)
        other_rates = [(scorer.heads.linear, LINEAR_RATE * lr), (nn.ParameterList(course.slow), MARKER_RATE * lr)]
    steps = len(data.train_dataloader())
    max_epochs = math.ceil(RECIPE.n_steps / steps) if max_epochs is None else max_epochs
    plan = ScorerPlan(
        course,
        data,
        loss_weights,
        lr=lr,
        weight_decay=weight_decay,
        warmup_steps=max_epochs * steps // 10 if warmup_steps is None else warmup_steps,
        schedule=schedule,
        seed=seed,
        other_rates=other_rates,
    )
    with training_only(scorer, LEARNING[stage]):
        fit(model, plan, data, max_epochs=max_epochs, checkpoint_dir=checkpoint_dir, **trainer_kwargs)
    if isinstance(course, TextCourse):
        course.conclude()
        scorer.n_studies.copy_(n_studies(model.config.types, registered.sets(split[0]), CellOntology.load()))
        if len(split[1]):
            calibrate(model, registered, split[1])


def _data(
    model: LangCell,
    registered: RegisteredCells,
    split: tuple[np.ndarray, ...],
    *,
    batch_size: int,
    stage: Stage,
    seed: int,
) -> tuple[ScorerData, list[tuple[str, ...]]]:
    """Batches of training and held-out cells, and what their labels stand for; the scorer takes their moments."""
    training, held_out = split
    sets = registered.sets(training)
    n_genes = len(model.genes)
    rng = np.random.default_rng(seed)
    model.module.scale = fit_scale(sets, n_genes, rng).to(model.module.device)
    labels = shown_labels(sets)
    markers = [model.genes.index_of(model.config.markers[i]) for i in model.config.profiles]
    table = marker_table(markers, n_genes)
    number = {ids: i for i, ids in enumerate(labels)}
    batches = Batches(sets, number, table, model.module.scale, rng, max_per_type=None)
    validation = None
    if len(held_out):
        validation = Batches(
            registered.sets(held_out, training), number, table, model.module.scale, rng, max_per_type=None
        )
        # Few cells do not tell what a study is like.
        validation.mean, validation.sd = batches.mean, batches.sd
    rows = (registered.rows[training], registered.rows[held_out])
    made_up = RECIPE.made_up if stage == 2 and len(table) else 0
    return ScorerData(batches, validation, rows=rows, batch_size=batch_size, made_up=made_up), labels


def _check_types(model: LangCell, registered: RegisteredCells) -> None:
    """Refuse data of other types than the weights have heads for."""
    shown = {ids[0] for label, ids in registered.types.items() if label}
    known = set(model.config.types)
    if missing := sorted(shown - known):
        found = f"{len(missing)} other types, such as {missing[0]!r}"
    elif fewer := sorted(known - shown - set(model.config.markers)):
        found = f"no cells of {len(fewer)} of them, such as {fewer[0]!r}"
    else:
        return
    msg = (
        f"The weights {model.provenance['weights']!r} know {len(known)} cell types, but the registered data have "
        f"{found}. Weights on standardised expression are learned as a whole, with all their types. Build a model of "
        "these data, LangCell(adata, cell_encoder='expression_mlp'), or learn their labels with a head on these "
        'weights: sf.tl.annotate(adata, reference, labels_key="cell_type", model=model).'
    )
    raise ValueError(msg)
