"""Steps of the training of a scorer: batches that are drawn anew, and the objectives of a course."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from scfoundry.train.plan import VALIDATION_SEED, TrainingPlan, positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.utils.data import DataLoader

    from scfoundry.model.cellnamer._batches import Batch, Batches
    from scfoundry.model.cellnamer._cell_objectives import CellCourse
    from scfoundry.model.cellnamer._text_objectives import TextCourse

    Drawn = tuple[Batch, np.random.Generator]

__all__ = ["ScorerData", "ScorerPlan"]


class ScorerData(pl.LightningDataModule):
    """Batches for training and validation; an epoch draws as many cells as there are.

    Parameters
    ----------
    training, validation
        Where batches are drawn from; without held-out cells there is no validation.
    rows
        Row numbers of the cells of both.
    batch_size
        Cells per batch, those that are made up included.
    made_up
        Share of cells that are made up from marker sets.
    """

    def __init__(
        self,
        training: Batches,
        validation: Batches | None,
        *,
        rows: tuple[np.ndarray, np.ndarray],
        batch_size: int,
        made_up: float,
    ) -> None:
        super().__init__()
        self.training, self.validation = training, validation
        self.train_idx, self.val_idx = map(np.sort, rows)
        self.batch_size, self.n_made_up = batch_size, int(batch_size * made_up)

    def n_batches(self, rows: np.ndarray) -> int:
        """Batches with as many real cells as there are rows."""
        return math.ceil(len(rows) / (self.batch_size - self.n_made_up))

    def draw(self, seed: Sequence[int], *, held_out: bool = False) -> Drawn:
        """One batch, and where further random numbers of its step come from."""
        rng = np.random.default_rng(seed)
        batches = self.validation if held_out and self.validation is not None else self.training
        return batches.draw(self.batch_size, self.n_made_up, rng), rng

    def train_dataloader(self) -> DataLoader:
        """Numbers of the steps of an epoch."""
        return positions(range(self.n_batches(self.train_idx)))

    def val_dataloader(self) -> DataLoader | list:
        """Numbers of the batches of held-out cells."""
        return positions(range(self.n_batches(self.val_idx))) if self.validation is not None else []


class ScorerPlan(TrainingPlan):
    """One batch per step.

    Parameters
    ----------
    course
        The objectives; what they learn beside the scorer belongs to the state of the training.
    data
        The batches.
    weights
        Of every objective.
    **how
        Further arguments of `TrainingPlan`.
    """

    def __init__(
        self, course: CellCourse | TextCourse, data: ScorerData, weights: Mapping[str, float], **how: Any
    ) -> None:
        super().__init__(course.scorer, self.weighted, **how)
        self.course, self.data, self.weights = course, data, weights

    def weighted(self, drawn: Drawn, step: int) -> dict[str, Tensor]:
        """Sum of the weighted objectives, and each of them."""
        batch, rng = drawn
        losses = self.course.losses(batch.to(self.device), rng)
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
