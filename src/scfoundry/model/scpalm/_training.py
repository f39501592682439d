"""Training of scPaLM in two stages: tokens of a codebook first, then a token of the cell."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.model.scpalm._module import STAGES
from scfoundry.model.scpalm._objectives import CellTokenLoss, PathwayTokenLoss
from scfoundry.model.scpalm._pseudo_labels import PseudoLabels
from scfoundry.stats.groups import membership
from scfoundry.train.cells import CellDataModule, CellTrainingPlan, split_cells
from scfoundry.train.plan import fit, seeded, training_only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model.scpalm._module import ScPaLMModule
    from scfoundry.train.plan import Trainable

__all__ = ["WARMUP_SHARE", "fine_tune", "train_cell_token", "train_pathway_tokens", "training_data"]

MAX_GRADIENT_NORM = 1.0
# Of the steps; the paper does not say.
WARMUP_SHARE = 0.05
# Of fine-tuning, by stage.
STEPS, CELLS_PER_STEP = {1: 400, 2: 200}, 64
# Apart from the seeds of steps and of validation.
REPLACEMENT_SEED = 1 << 33


class PathwayTokenPlan(CellTrainingPlan):
    """Batches of cells, after which codes that nothing uses move to where tokens are; see `CellTrainingPlan`."""

    module: ScPaLMModule
    loss: PathwayTokenLoss

    def on_train_start(self) -> None:
        """Where gradients accumulate, not every batch is a step."""
        self.n_counted = self.global_step

    def on_train_batch_end(self, *what: Any) -> None:
        """Replace unused codes if there was a step, which would otherwise move them on."""
        config = self.module.config
        if config.quantiser and config.replace_every and self.global_step > self.n_counted:
            self.n_counted = self.global_step
            optimizer: Any = self.optimizers(use_pl_optimizer=False)
            with seeded(self.seed + REPLACEMENT_SEED + self.global_step, self.device):
                self.module.quantiser.replace_unused(self.loss.vectors, config.replace_every, optimizer)


class CellTokenPlan(CellTrainingPlan):
    """Batches of cells, with the clusters of those before as part of the state; see `CellTrainingPlan`."""

    def __init__(self, *args: Any, labels: PseudoLabels, **how: Any) -> None:
        super().__init__(*args, **how)
        self.labels = labels


def train_pathway_tokens(
    model: Trainable[ScPaLMModule], cells: Cells, data: CellDataModule, plan_kwargs: Mapping[str, Any], **how: Any
) -> None:
    """Stage 1; see `ScPaLM.train`."""
    batches = batch_numbers(model.module, cells)
    model.module.decoder.start(batch_means(cells, batches, model.module.config.n_batches))
    loss = PathwayTokenLoss(model.module, cells.reader, batches)
    run(model, 1, PathwayTokenPlan(model.module, data, loss, **plan_kwargs), data, **how)


def train_cell_token(
    model: Trainable[ScPaLMModule], cells: Cells, data: CellDataModule, plan_kwargs: Mapping[str, Any], **how: Any
) -> None:
    """Stage 2; see `ScPaLM.train`."""
    batches = batch_numbers(model.module, cells)
    model.module.cell_decoder.decoder.start(batch_means(cells, batches, model.module.config.n_batches))
    labels = PseudoLabels(model.module.config, plan_kwargs["seed"])
    loss = CellTokenLoss(model.module, cells.reader, batches, labels)
    run(model, 2, CellTokenPlan(model.module, data, loss, labels=labels, **plan_kwargs), data, **how)


def fine_tune(
    model: Trainable[ScPaLMModule],
    cells: Cells,
    *,
    max_epochs: int | None,
    rates: Mapping[int, float],
    seed: int,
    compute: Compute,
) -> None:
    """Train both stages on cells, none of which are held out; as many epochs as make some hundred steps if `None`."""
    data = training_data(cells, batch_size=CELLS_PER_STEP, validation_size=0.0, seed=seed)
    n_steps = len(data.train_dataloader())
    with torch.no_grad():
        for decoder in (model.module.decoder, model.module.cell_decoder.decoder):
            if decoder.means is not None:
                decoder.means.zero_()  # to start anew from those of these cells
    for stage, learn in {1: train_pathway_tokens, 2: train_cell_token}.items():
        epochs = math.ceil(STEPS[stage] / n_steps) if max_epochs is None else max_epochs
        how = {"lr": rates[stage], "weight_decay": 0.01, "schedule": "cosine", "seed": seed}
        how["warmup_steps"] = int(WARMUP_SHARE * epochs * n_steps)
        learn(model, cells, data, how, max_epochs=epochs, checkpoint_dir=None, **compute.trainer_arguments())


def batch_numbers(module: ScPaLMModule, cells: Cells) -> np.ndarray:
    """Number of the batch of every cell, (n_obs,): of contexts in order, or 0 where the model knows of one alone."""
    numbers = np.zeros(cells.n_obs, dtype=np.int64)
    if module.config.n_batches == len(cells.contexts):
        for number, context in enumerate(cells.contexts):
            numbers[context.rows] = number
    return numbers


def batch_means(cells: Cells, batches: np.ndarray, n_batches: int) -> torch.Tensor:
    """Mean log expression of genes in every batch, (n_batches, G)."""
    sums, start = np.zeros((n_batches, cells.reader.n_vocabulary)), 0
    for counts in cells.blocks():
        of_block = batches[start : start + counts.shape[0]]
        sums += (membership(of_block, n_batches) @ log_cp10k(counts)).toarray()
        start += counts.shape[0]
    return torch.from_numpy(sums / np.bincount(batches, minlength=n_batches).clip(min=1)[:, None]).float()


def training_data(cells: Cells, *, batch_size: int, validation_size: float, seed: int) -> CellDataModule:
    """Cells to learn from and to validate on, without those that express nothing."""
    # A cell costs as much as any other: length plays no part.
    lengths = np.zeros(cells.n_obs, dtype=np.int64)
    split = split_cells(~cells.empty, validation_size, seed)
    return CellDataModule(*split, lengths=lengths, batch_size=batch_size, blocks=cells.reader.by_blocks())


def run(
    model: Trainable[ScPaLMModule],
    stage: int,
    plan: CellTrainingPlan,
    data: CellDataModule,
    *,
    max_epochs: int,
    checkpoint_dir: str | Path | None,
    **trainer_kwargs: Any,
) -> None:
    """Train the parts of a stage, all others frozen."""
    trainer_kwargs.setdefault("gradient_clip_val", MAX_GRADIENT_NORM)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir) / f"stage{stage}"
    with training_only(model.module, STAGES[stage]):
        fit(model, plan, data, max_epochs=max_epochs, checkpoint_dir=folder, **trainer_kwargs)
