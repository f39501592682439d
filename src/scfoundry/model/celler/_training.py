"""How Celler learns: from hidden values, and from labels (Zhao et al. 2025, as scGPT was fine-tuned)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from scfoundry.model.celler._objectives import MaskedValues
from scfoundry.train.cells import BestWeights, CellDataModule, CellTrainingPlan, split_cells
from scfoundry.train.labels import ClassificationLoss, loss_of_sizes
from scfoundry.train.plan import fit, training_only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfoundry.model.celler._module import CellerModule
    from scfoundry.model.celler._tokens import CellTokens
    from scfoundry.nn.label_loss import LabelLoss
    from scfoundry.train.plan import Trainable

__all__ = ["class_probabilities", "learn_classes", "pretrain"]

MAX_GRADIENT_NORM = 1.0
# Published, for millions of cells; at most this share of the steps.
WARMUP_STEPS, WARMUP_SHARE = 10_000, 0.1


def pretrain(
    model: Trainable[CellerModule],
    cells: CellTokens,
    weights: Mapping[str, float],
    *,
    batch_size: int,
    part_size: int | None,
    validation_size: float,
    max_epochs: int,
    plan_kwargs: Mapping[str, Any],
    **trainer_kwargs: Any,
) -> None:
    """Train everything but a classification head on hidden values; see `Celler.train`."""
    if part_size is not None and model.module.config.n_batches and model.module.config.domain_norm:
        msg = (
            f"part_size={part_size} divides a batch, by all of which this model normalises inputs (domain_norm). "
            "For less memory: train(batch_size=8, accumulate_grad_batches=4)."
        )
        raise ValueError(msg)
    lengths = cells.lengths()
    split = split_cells(lengths > 0, validation_size, plan_kwargs["seed"])
    data = CellDataModule(*split, lengths=lengths, batch_size=batch_size, blocks=cells.reader.by_blocks())
    loss = MaskedValues(model.module, cells, weights, part_size)
    plan = CellTrainingPlan(model.module, data, loss, **with_warmup(plan_kwargs, data, max_epochs))
    trainer_kwargs.setdefault("gradient_clip_val", MAX_GRADIENT_NORM)
    with training_only(model.module, [name for name, _ in model.module.named_children() if name != "classifier"]):
        fit(model, plan, data, max_epochs=max_epochs, **trainer_kwargs)


def with_warmup(plan_kwargs: Mapping[str, Any], data: CellDataModule, max_epochs: int) -> dict[str, Any]:
    """Arguments of the plan with the published warm-up where none is given, shorter where there are few steps."""
    if plan_kwargs["warmup_steps"] is not None:
        return dict(plan_kwargs)
    n_steps = max_epochs * len(data.train_dataloader())
    return {**plan_kwargs, "warmup_steps": min(WARMUP_STEPS, int(WARMUP_SHARE * n_steps))}


def class_logits(module: CellerModule, cells: CellTokens, rows: np.ndarray) -> Tensor:
    """Logits of the classes of some cells by their row numbers, (B, C)."""
    return module.classifier(module.cell_states(cells.batch(rows, module.device)))


def learn_classes(
    model: Trainable[CellerModule],
    cells: CellTokens,
    codes: np.ndarray,
    split: tuple[np.ndarray, np.ndarray],
    *,
    loss: LabelLoss,
    batch_size: int,
    patience: int,
    lr: float,
    seed: int,
    **trainer_kwargs: Any,
) -> None:
    """Train all weights and the head on labelled cells; the weights that are best on the held-out ones stay.

    Whatever is minimised, cross-entropy says which are best.
    """
    sizes: dict[str, Any] = {"lengths": cells.lengths(), "batch_size": batch_size}
    data = CellDataModule(*split, **sizes, blocks=cells.reader.by_blocks())
    how: dict[str, Any] = {"lr": lr, "weight_decay": 0.0, "warmup_steps": 0, "schedule": "linear", "seed": seed}
    sized = loss_of_sizes(loss, codes[split[0]], model.module.config.n_classes)
    learns = ClassificationLoss(
        model.module, partial(class_logits, model.module, cells), codes, sized, held_out=F.cross_entropy
    )
    plan = CellTrainingPlan(model.module, data, learns, **how)
    callbacks = [BestWeights(model.module, patience)] if len(split[1]) else []
    trainer_kwargs.setdefault("gradient_clip_val", MAX_GRADIENT_NORM)
    fit(model, plan, data, callbacks=callbacks, **trainer_kwargs)


# Not inference_mode: there autocast would cast every weight anew at every batch.
@torch.no_grad()
def class_probabilities(
    module: CellerModule, cells: CellTokens, device: torch.device, batch_size: int | None
) -> np.ndarray:
    """Probabilities of the classes, float32, (n_obs, C)."""
    probabilities = np.empty((cells.reader.n_obs, module.config.n_classes), dtype=np.float32)
    for batch in cells.stream(device, batch_size):
        logits = module.classifier(module.cell_states(batch)).float()
        probabilities[batch.rows.cpu().numpy()] = logits.softmax(1).cpu().numpy()
    return probabilities
