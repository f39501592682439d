"""Training on batches of cells that are read one by one, and stopping where it no longer helps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from scfoundry._settings import logger
from scfoundry.data.matrix.kept_blocks import CELLS_IN_MEMORY
from scfoundry.train.plan import TrainingPlan, positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from torch.utils.data import DataLoader

__all__ = ["BestWeights", "CellDataModule", "CellTrainingPlan", "split_cells"]

# Batches that are sorted by length together: enough to save most padding, few enough to keep their cells mixed.
BATCHES_PER_POOL = 16


def split_cells(readable: np.ndarray, validation_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of cells to train on and to validate on, each in order, of those that can be read, (n_obs,)."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(readable))
    if len(rows) < len(readable):
        logger.warning("%d cells without a gene of the vocabulary are left out.", len(readable) - len(rows))
    n_held_out = min(round(validation_size * len(rows)), len(rows) - 1)
    return np.sort(rows[n_held_out:]), np.sort(rows[:n_held_out])


class CellDataModule(pl.LightningDataModule):
    """Rows for training and validation, in batches of similar ``lengths`` (n_obs,).

    Similar length saves padding, and leaves a contrastive loss no way to tell cells apart by their depth. Cells of
    different ``groups`` (n_obs,) are never in one batch. ``blocks`` (n_obs,): what a file gives together (see
    `Reader.by_blocks`); cells are then drawn from a part of the blocks, drawn at random, at a time.
    """

    def __init__(
        self,
        train: np.ndarray,
        validation: np.ndarray,
        *,
        lengths: np.ndarray,
        batch_size: int,
        groups: np.ndarray | None = None,
        blocks: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            msg = f"batch_size must be at least 1 cell; got {batch_size}. Leave it out for the default."
            raise ValueError(msg)
        self.train_idx, self.val_idx = train, validation
        self.lengths, self.batch_size = lengths, batch_size
        self.groups = np.zeros(len(lengths), dtype=np.int64) if groups is None else groups
        self.blocks = np.zeros(len(lengths), dtype=np.int64) if blocks is None else blocks
        # A reader keeps the blocks of two parts: a batch may be of the end of one and of the beginning of another.
        self.blocks_per_part = max(1, CELLS_IN_MEMORY // 2 // int(np.bincount(self.blocks).max(initial=1)))
        parts = self.blocks[validation] // self.blocks_per_part
        by_length = validation[np.lexsort((lengths[validation], parts))]
        self.validation_batches = [batch for rows in self._grouped(by_length) for batch in self._cut(rows)]

    def epoch(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Batches in random order; cells of a batch are alike in length, but otherwise drawn at random."""
        rows = rng.permutation(self.train_idx)
        # Which part of the epoch the cells of a block come in.
        n_blocks = int(self.blocks.max(initial=0)) + 1
        parts = (rng.permutation(n_blocks) if n_blocks > 1 else np.zeros(1, dtype=np.int64)) // self.blocks_per_part
        part_of = parts[self.blocks]
        batches = []
        for alike in self._grouped(rows[np.argsort(part_of[rows], kind="stable")]):
            part = part_of[alike]
            pool = (np.arange(len(alike)) - np.searchsorted(part, part)) // (self.batch_size * BATCHES_PER_POOL)
            batches += self._cut(alike[np.lexsort((self.lengths[alike], pool, part))])
        order = rng.permutation(len(batches))
        first = np.array([part_of[batch].min() for batch in batches])
        return [batches[i] for i in order[np.argsort(first[order], kind="stable")]]

    def _grouped(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[self.groups[rows] == group] for group in np.unique(self.groups[rows])]

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.array_split(rows, math.ceil(len(rows) / self.batch_size)) if len(rows) else []

    def train_dataloader(self) -> DataLoader:
        """Positions in the order of an epoch, which the training plan draws."""
        sizes = np.unique(self.groups[self.train_idx], return_counts=True)[1]
        return positions(range(int(np.ceil(sizes / self.batch_size).sum())), self.trainer)

    def val_dataloader(self) -> DataLoader | list:
        """Numbers of the held-out batches."""
        return positions(range(len(self.validation_batches)), self.trainer) if self.validation_batches else []


class CellTrainingPlan(TrainingPlan):
    """One batch of cells, their row numbers, per step; see `TrainingPlan`."""

    def __init__(
        self,
        module: nn.Module,
        data: CellDataModule,
        loss: Callable[[np.ndarray, int], dict[str, Tensor]],
        **how: Any,
    ) -> None:
        super().__init__(module, loss, **how)
        self.data = data

    def on_train_epoch_start(self) -> None:
        """Draw the batches of the epoch."""
        self.batches = self.data.epoch(np.random.default_rng([self.seed, self.current_epoch]))

    def example(self, position: int) -> np.ndarray:
        """Row numbers of a batch."""
        return self.batches[position]

    def held_out(self, number: int) -> np.ndarray:
        """Row numbers of a held-out batch."""
        return self.data.validation_batches[number]


class BestWeights(pl.Callback):
    """Stop where the validation loss no longer falls, and go back to the weights where it was lowest."""

    def __init__(self, module: nn.Module, patience: int) -> None:
        self.module, self.patience = module, patience
        self.lowest, self.epoch = math.inf, -1
        self.weights: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin with the weights as they are."""
        self._keep()

    def _keep(self) -> None:
        self.weights = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if they are the best so far."""
        loss = float(trainer.callback_metrics["loss_validation"])
        if loss < self.lowest:
            self.lowest, self.epoch = loss, trainer.current_epoch
            self._keep()
        elif trainer.current_epoch - self.epoch >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on has to know of the epochs before."""
        return {"lowest": self.lowest, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.lowest, self.epoch, self.weights = (state_dict[name] for name in ("lowest", "epoch", "weights"))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the best weights."""
        self.module.load_state_dict(self.weights)
