"""LangCell-CE: a classification head on the cell encoder, for cell types and for sets of labels (Zhao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scfoundry.train.cells import BestWeights, CellDataModule, CellTrainingPlan
from scfoundry.train.plan import fit, training_only
from scfoundry.train.rates import rate_at_width

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scfoundry.model.langcell._few_shot import TunedPart
    from scfoundry.model.langcell._inference import CellStream
    from scfoundry.model.langcell._module import LangCellModule
    from scfoundry.model.langcell._training_data import TrainingCells
    from scfoundry.train.labels import ClassificationLoss
    from scfoundry.train.plan import Trainable

__all__ = ["class_logits", "class_probabilities", "labels_of_cells", "learn"]

# Published: everything at a small rate with warm-up, or the last layer alone at a large one.
LEARNING: dict[TunedPart, dict[str, Any]] = {
    "all": {"parts": ("cell", "classifier"), "lr": 5e-5, "warmup_steps": 500},
    "head": {"parts": ("classifier.output",), "lr": 5e-3, "warmup_steps": 0},
}
WEIGHT_DECAY = 1e-3


def class_logits(module: LangCellModule, cells: TrainingCells, rows: np.ndarray) -> Tensor:
    """Logits of the classes of some cells by their row numbers, (B, C)."""
    batch = cells.batch(rows, module.device)
    return module.classifier(module.cell(batch.tokens, batch.present, n_wanted=1))


def learn(
    model: Trainable[LangCellModule],
    loss: ClassificationLoss,
    rows: tuple[np.ndarray, np.ndarray],
    *,
    cells: TrainingCells,
    train: TunedPart,
    max_epochs: int,
    patience: int,
    batch_size: int,
    plan_kwargs: Mapping[str, Any],
    **trainer_kwargs: Any,
) -> None:
    """Train the head, and the encoder with it if asked for.

    ``rows``: to learn from, and held out. ``cells``: those that the loss reads.
    """
    how = LEARNING[train]
    given = {name: value for name, value in plan_kwargs.items() if value is not None}
    sizes: dict[str, Any] = {"lengths": cells.lengths(), "batch_size": batch_size}
    data = CellDataModule(*rows, **sizes, blocks=cells.reader.by_blocks())
    n_steps = max_epochs * len(data.train_dataloader())
    plan = CellTrainingPlan(
        model.module,
        data,
        loss,
        weight_decay=WEIGHT_DECAY,
        # A small reference has fewer steps than the published warm-up.
        warmup_steps=min(how["warmup_steps"], n_steps // 10),
        schedule="linear",
        **{"lr": rate_at_width(how["lr"], model.module.config.n_hidden)} | given,
    )
    callbacks = [BestWeights(model.module, patience)] if len(rows[1]) else []
    with training_only(model.module, how["parts"]):
        fit(model, plan, data, max_epochs=max_epochs, callbacks=callbacks, **trainer_kwargs)


def labels_of_cells(targets: Any, n_obs: int) -> tuple[np.ndarray, list[str]]:
    """Which labels a cell has, float32 (n_obs, C), and their names.

    ValueError: if there is not 0 or 1 for every cell and label, or two labels share a name.
    """
    values = np.asarray(targets, dtype=np.float32)
    shape_fits = values.ndim == 2 and len(values) == n_obs and values.shape[1] > 0
    if not shape_fits or not np.isin(values, (0, 1)).all():
        msg = (
            f"targets must be 0 or 1 for every cell and label, of shape ({n_obs}, number of labels); got shape "
            f"{values.shape} with values {np.unique(values)[:3].tolist()}."
        )
        raise ValueError(msg)
    names = pd.Index(targets.columns if isinstance(targets, pd.DataFrame) else range(values.shape[1])).map(str)
    if not names.is_unique:
        msg = f"targets has the column {names[names.duplicated()][0]!r} more than once. Give every label its own name."
        raise ValueError(msg)
    return values, names.tolist()


# Not inference_mode: there autocast would cast every weight anew at every batch.
@torch.no_grad()
def class_probabilities(module: LangCellModule, stream: CellStream) -> np.ndarray:
    """Probabilities of the classes, float32, (n_obs, C)."""
    probabilities = np.empty((stream.reader.n_obs, module.config.n_classes), dtype=np.float32)
    for batch in stream:
        logits = module.classifier(module.cell(batch.tokens, batch.present, n_wanted=1)).float()
        given = logits.sigmoid() if module.config.multilabel else logits.softmax(1)
        probabilities[batch.rows] = given.cpu().numpy()
    return probabilities
