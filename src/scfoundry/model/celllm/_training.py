"""Pre-training of CellLM (Zhao, Zhang and Nie 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfoundry.model.celllm._objectives import Pretraining
from scfoundry.train.cells import CellDataModule, CellTrainingPlan, split_cells
from scfoundry.train.plan import fit, seeded, training_only

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from scfoundry.model.celllm._module import CellLMModule
    from scfoundry.model.celllm._tokens import CellTokens
    from scfoundry.train.plan import Trainable

__all__ = ["pretrain"]

# Objective -> the head that nothing else reads.
HEADS = {"masked_values": "level_head", "tumour": "tumour_head", "contrastive": "contrast"}
# Apart from the seeds of steps and of validation.
REDRAW_SEED = 1 << 33


class PretrainingPlan(CellTrainingPlan):
    """Batches of cells, and random features that are drawn anew once in a while; see `CellTrainingPlan`."""

    module: CellLMModule

    def on_train_start(self) -> None:
        """Where gradients accumulate, not every batch is a step."""
        self.n_counted = self.global_step

    def on_train_batch_end(self, *what: Any) -> None:
        """Count the step, if there was one."""
        if self.global_step > self.n_counted:
            self.n_counted = self.global_step
            with seeded(self.seed + REDRAW_SEED + self.global_step, self.device):
                self.module.count_step()


def pretrain(
    model: Trainable[CellLMModule],
    cells: CellTokens,
    tumour: np.ndarray,
    weights: Mapping[str, float],
    *,
    batch_size: int,
    part_size: int | None,
    validation_size: float,
    plan_kwargs: Mapping[str, Any],
    **fit_kwargs: Any,
) -> None:
    """Train on cells; see `CellLM.train`."""
    lengths = cells.lengths()
    split = split_cells(lengths > 1, validation_size, plan_kwargs["seed"])
    data = CellDataModule(*split, lengths=lengths, batch_size=batch_size, blocks=cells.reader.by_blocks())
    loss = Pretraining(model.module, cells, tumour, weights, part_size)
    # Parallel training waits for the gradient of everything that is to learn.
    idle = {HEADS[name] for name, weight in weights.items() if not weight}
    idle |= {"genes"} if model.module.config.freeze_genes else set()
    with training_only(model.module, [name for name, _ in model.module.named_children() if name not in idle]):
        fit(model, PretrainingPlan(model.module, data, loss, **plan_kwargs), data, **fit_kwargs)
