"""Training of CellNamer on registered data in two stages: cells alone, then cells and texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from scfoundry.data.labels.ontology import CellOntology
from scfoundry.model.cellnamer._batches import Batches, fit_scale
from scfoundry.model.cellnamer._cell_objectives import CellObjectives
from scfoundry.model.cellnamer._corpus import labels_in, marker_table, n_studies, occur_together
from scfoundry.model.cellnamer._text_objectives import TextObjectives
from scfoundry.train.contrast import DIVIDED, check_contrast
from scfoundry.train.objectives import weights_of
from scfoundry.train.plan import VALIDATION_SEED, TrainingPlan, fit, positions, seeded, training_only

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor
    from torch.utils.data import DataLoader

    from scfoundry.model.cellnamer._batches import Batch
    from scfoundry.model.cellnamer._config import CellNamerConfig
    from scfoundry.model.cellnamer._corpus import RegisteredCells
    from scfoundry.model.cellnamer._module import CellNamerModule
    from scfoundry.train.plan import Trainable

    Drawn = tuple[Batch, np.random.Generator]

__all__ = ["Contrast", "Stage", "check_arguments", "check_types", "prepare", "train"]

Stage = Literal[1, 2]
Contrast = Literal["batch", "divide_and_conquer"]

LEARNING = {1: ("cells",), 2: ("cells", "text", "heads")}
OBJECTIVES = {1: ("masked_genes", "cell_cell"), 2: ("cell_text", "known_types", "matching")}
N_STEPS = 260
# Share of cells that are made up from marker sets.
MADE_UP = 0.3
# How often a cell is described by a broader type.
BROADER = 0.3
TEMPERATURE = 0.07
# Cells whose gradients are in memory at a time where a batch is divided.
CELLS_PER_PART = 112
# Rates of the linear head and of log weights of markers, relative to that of the networks.
LINEAR_RATE, MARKER_RATE = 0.35, 7.5


class DrawnBatches(pl.LightningDataModule):
    """Batches for training and validation; an epoch draws as many cells as there are.

    ``training``, ``validation``: where batches are drawn from; without held-out cells there is no validation.
    ``made_up``: share of cells that are made up from marker sets.
    """

    def __init__(
        self,
        training: Batches,
        validation: Batches | None,
        *,
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        batch_size: int,
        made_up: float,
    ) -> None:
        super().__init__()
        self.training, self.validation = training, validation
        self.train_idx, self.val_idx = map(np.sort, rows)
        self.batch_size, self.n_made_up = batch_size, int(batch_size * made_up)

    def n_batches(self, rows: NDArray[np.int64]) -> int:
        """Batches with as many real cells as there are rows."""
        return math.ceil(len(rows) / (self.batch_size - self.n_made_up))

    def draw(self, seed: Sequence[int], *, held_out: bool = False) -> Drawn:
        """One batch, and where further random numbers of its step come from."""
        rng = np.random.default_rng(seed)
        batches = self.validation if held_out and self.validation is not None else self.training
        return batches.draw(self.batch_size, self.n_made_up, rng), rng

    def train_dataloader(self) -> DataLoader:
        """Numbers of the steps of an epoch."""
        return positions(range(self.n_batches(self.train_idx)), self.trainer)

    def val_dataloader(self) -> DataLoader | list:
        """Numbers of the batches of held-out cells."""
        return positions(range(self.n_batches(self.val_idx)), self.trainer) if self.validation is not None else []


class CellNamerPlan(TrainingPlan):
    """One batch per step.

    ``objectives``: what they learn beside the module belongs to the state of the training. ``weights``: of every
    objective. ``**how``: further arguments of `TrainingPlan`.
    """

    def __init__(
        self, objectives: CellObjectives | TextObjectives, data: DrawnBatches, weights: Mapping[str, float], **how: Any
    ) -> None:
        super().__init__(objectives.module, self.weighted, **how)
        self.objectives, self.data, self.weights = objectives, data, weights

    def weighted(self, drawn: Drawn, step: int) -> dict[str, Tensor]:
        """Sum of the weighted objectives, and each of them."""
        batch, rng = drawn
        losses = self.objectives.losses(batch.to(self.device), rng)
        total = sum(
            (self.weights[name] * loss for name, loss in losses.items()), start=batch.z.new_zeros(()).to(self.device)
        )
        return {"loss": total} | losses

    def example(self, position: int) -> Drawn:
        """Batch at a position of this epoch."""
        return self.data.draw([self.seed, self.current_epoch, position])

    def held_out(self, number: int) -> Drawn:
        """Held-out batch of a number, the same at every epoch."""
        return self.data.draw([self.seed, VALIDATION_SEED, number], held_out=True)


def train(
    model: Trainable[CellNamerModule],
    registered: RegisteredCells,
    split: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    stage: Stage,
    loss_weights: Mapping[str, float] | None,
    max_epochs: int | None,
    batch_size: int,
    part_size: int | None,
    plan_kwargs: Mapping[str, Any],
    **fit_kwargs: Any,
) -> None:
    """Train a model on some registered cells, others held out; see `CellNamer.train`."""
    module = model.module
    names = [name for name in OBJECTIVES[stage] if name != "matching" or module.config.profiles]
    weights = weights_of(dict.fromkeys(names, 1.0), loss_weights, of=f"stage {stage}")
    how: dict[str, Any] = {"stage": stage, "batch_size": batch_size, "part_size": part_size}
    objectives, data = prepare(module, registered, split, **how, seed=plan_kwargs["seed"])
    lr, warmup_steps = plan_kwargs["lr"], plan_kwargs["warmup_steps"]
    if isinstance(objectives, TextObjectives):
        markers = nn.ParameterList(objectives.marker_weights)
        linear = [(part, LINEAR_RATE * lr) for part in (module.heads.axes, module.heads.linear)]
        other_rates = [*linear, (markers, MARKER_RATE * lr)]
    else:
        other_rates = [(objectives.decoders, lr)]
    steps = len(data.train_dataloader())
    max_epochs = math.ceil(N_STEPS / steps) if max_epochs is None else max_epochs
    rates = {
        "warmup_steps": max_epochs * steps // 10 if warmup_steps is None else warmup_steps,
        "other_rates": other_rates,
    }
    plan = CellNamerPlan(objectives, data, weights, **(dict(plan_kwargs) | rates))
    with training_only(module, LEARNING[stage]):
        fit(model, plan, data, max_epochs=max_epochs, **fit_kwargs)
    if isinstance(objectives, TextObjectives):
        objectives.conclude()
        found = n_studies(module.config.types, registered.studies(split[0]), CellOntology.load())
        module.n_studies.copy_(torch.from_numpy(found))


def prepare(
    module: CellNamerModule,
    registered: RegisteredCells,
    split: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    stage: Stage,
    batch_size: int,
    part_size: int | None = None,
    seed: int,
) -> tuple[CellObjectives | TextObjectives, DrawnBatches]:
    """Objectives and batches of training and held-out cells; the module takes the moments of the data."""
    training, held_out = split
    studies, markers = registered.studies(training), marker_table(module.config, registered.genes)
    rng = np.random.default_rng(seed)
    module.scale = fit_scale(studies, len(registered.genes), rng).to(module.device)
    labels = labels_in(studies)
    number = {ids: i for i, ids in enumerate(labels)}
    batches = Batches(studies, number, markers, module.scale, rng)
    validation = None
    if len(held_out):
        validation = Batches(registered.studies(held_out, training), number, markers, module.scale, rng)
        # Few cells do not tell what a study is like.
        validation.mean, validation.sd = batches.mean, batches.sd
    rows = (registered.rows[training], registered.rows[held_out])
    made_up = MADE_UP if stage == 2 and len(markers) else 0
    data = DrawnBatches(batches, validation, rows=rows, batch_size=batch_size, made_up=made_up)
    if stage == 1:
        # The decoders begin at random.
        with seeded(seed, module.device):
            return CellObjectives(module, temperature=TEMPERATURE, part_size=part_size), data
    objectives = TextObjectives(
        module,
        labels,
        batches,
        CellOntology.load(),
        temperature=TEMPERATURE,
        broader=BROADER,
        made_up=data.n_made_up / batch_size,
        occur_together=occur_together(studies, labels),
    )
    return objectives, data


def check_arguments(stage: int, contrast: Contrast, batch_size: int, part_size: int | None) -> int | None:
    """Refuse a training that cannot be; cells whose gradients are in memory at a time, `None` if all of a batch."""
    check_contrast(contrast, batch_size=batch_size, part_size=part_size)
    if contrast != DIVIDED:
        return None
    if stage == 2:
        msg = (
            "Stage 2 contrasts each cell with a text of every type and with no other cell: its loss is exact in a "
            "batch of any size, and there is nothing to divide. Leave contrast out; for the mean gradient of more "
            "cells than fit into memory: train(accumulate_grad_batches=4)."
        )
        raise ValueError(msg)
    return part_size or CELLS_PER_PART


def check_types(config: CellNamerConfig, registered: RegisteredCells, weights: str) -> None:
    """Refuse data of other types than the weights have heads for."""
    shown = {ids[0] for label, ids in registered.types.items() if label and len(ids) == 1}
    known = set(config.types)
    if missing := sorted(shown - known):
        found = f"{len(missing)} other types, such as {missing[0]!r}"
    elif fewer := sorted(known - shown - set(config.markers)):
        found = f"no cells of {len(fewer)} of them, such as {fewer[0]!r}"
    else:
        return
    msg = (
        f"The weights {weights!r} know {len(known)} cell types, but the registered data have "
        f"{found}. These weights are learned as a whole, with all their types. Build a model of these data, "
        "CellNamer(adata), or learn their labels with a head on these weights: "
        'sf.tl.annotate(adata, reference, labels_key="cell_type", model=model).'
    )
    raise ValueError(msg)
