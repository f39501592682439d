"""LangCell-CE: a classification head on the cell encoder, for cell types and for sets of labels (Zhao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from scfoundry._device import Compute
from scfoundry._settings import logger
from scfoundry.model.langcell._few_shot import draw_shots, labelled_cells
from scfoundry.model.langcell._module import ClassificationHead
from scfoundry.model.langcell._objectives import focal_loss
from scfoundry.model.langcell._training_data import TrainingCells, in_obs_order
from scfoundry.train.cells import BestWeights, CellDataModule, CellTrainingPlan
from scfoundry.train.plan import fit, training_only

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from torch import Tensor

    from scfoundry._device import Precision
    from scfoundry.model.langcell._few_shot import TunedPart
    from scfoundry.model.langcell._model import LangCell
    from scfoundry.model.langcell._module import LangCellModule

__all__ = ["predict_classes", "train_classifier", "train_multilabel"]

# Published: everything at a small rate with warm-up, or the last layer alone at a large one.
LEARNING: dict[TunedPart, dict[str, Any]] = {
    "all": {"parts": ("cell", "classifier"), "lr": 5e-5, "warmup_steps": 500},
    "head": {"parts": ("classifier.output",), "lr": 5e-3, "warmup_steps": 0},
}
WEIGHT_DECAY = 1e-3
# Cells that are looked at to see whether all get the same class.
N_JUDGED = 500


class ClassLoss:
    """Loss of the classes of a batch of cells.

    Parameters
    ----------
    module
        The model, its head attached.
    cells
        Training data.
    targets
        Of every cell, (n_obs,) or (n_obs, C).
    loss
        Maps logits (B, C) and targets to a loss.
    """

    def __init__(
        self,
        module: LangCellModule,
        cells: TrainingCells,
        targets: np.ndarray,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.module, self.cells, self.loss = module, cells, loss
        self.targets = torch.from_numpy(targets)

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """The loss."""
        cells = self.cells.batch(rows, self.module.device)
        targets = self.targets[torch.from_numpy(rows)].to(self.module.device)
        logits = self.module.classifier(self.module.cell(cells.tokens, cells.present, n_wanted=1))
        return {"loss": self.loss(logits.float(), targets)}


def attach_head(model: LangCell, classes: Sequence[str], *, multilabel: bool, seed: int) -> None:
    """Give a model a new classification head; the names of its classes become part of the configuration."""
    model._change_config(n_classes=len(classes), classes=tuple(classes), multilabel=multilabel)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ClassificationHead(model.config.n_hidden, len(classes), model.config.dropout)
    model.module.classifier = head.to(model.module.device)


def stratified(classes: np.ndarray, rows: np.ndarray, validation_size: float, seed: int) -> tuple[np.ndarray, ...]:
    """Rows for training and validation: of every class the same share, rounded down."""
    rng = np.random.default_rng(seed)
    held_out: list[np.ndarray] = [rows[:0]]
    for label in np.unique(classes[rows]):
        own = rng.permutation(rows[classes[rows] == label])
        held_out.append(own[: int(validation_size * len(own))])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(rows, validation), validation


def learn(
    model: LangCell,
    cells: TrainingCells,
    loss: ClassLoss,
    rows: tuple[np.ndarray, ...],
    *,
    train: TunedPart,
    max_epochs: int,
    patience: int,
    lr: float | None,
    batch_size: int,
    seed: int,
    **trainer_kwargs: Any,
) -> None:
    """Train the head, and the encoder with it if asked for."""
    how = LEARNING[train]
    data = CellDataModule(*rows, lengths=cells.lengths(), batch_size=batch_size)
    n_steps = max_epochs * len(data.train_dataloader())
    plan = CellTrainingPlan(
        model.module,
        data,
        loss,
        lr=how["lr"] if lr is None else lr,
        weight_decay=WEIGHT_DECAY,
        # A small reference has fewer steps than the published warm-up.
        warmup_steps=min(how["warmup_steps"], n_steps // 10),
        schedule="linear",
        seed=seed,
    )
    callbacks = [BestWeights(model.module, patience)] if len(rows[1]) else []
    with training_only(model.module, how["parts"]):
        fit(model, plan, data, max_epochs=max_epochs, callbacks=callbacks, **trainer_kwargs)


def train_classifier(
    model: LangCell,
    adata: AnnData,
    labels: Sequence[str | None] | np.ndarray,
    *,
    layer: str | None,
    n_shots: int | None,
    validation_size: float,
    seed: int,
    **how: Any,
) -> None:
    """Learn cell types; see `LangCell.train_classifier`."""
    labels = in_obs_order(labels, adata, "labels")
    classes = sorted(pd.Series(labels).dropna().astype(str).unique())
    if len(classes) < 2:
        msg = f"A classifier tells at least 2 classes apart; the labels have {len(classes)}: {classes}."
        raise ValueError(msg)
    coded, chosen = labelled_cells(labels, classes, adata, n_shots, seed)
    cells = TrainingCells(
        model._reader(adata, layer, "LangCell.train_classifier"), model.genes, model.config.max_length
    )
    rows = stratified(coded, chosen, validation_size, seed)
    attach_head(model, classes, multilabel=False, seed=seed)
    learn(model, cells, ClassLoss(model.module, cells, coded, F.cross_entropy), rows, seed=seed, **how)
    judged = draw_shots(coded, max(1, N_JUDGED // len(classes)), seed)
    judged = judged[np.isin(judged, chosen)]
    predicted = np.unique(predict_classes(model, adata[judged], layer=layer).argmax(1))
    if len(predicted) == 1 and len(np.unique(coded[judged])) > 1:
        logger.warning(
            "The classifier calls every cell %r: it learned nothing. Try a larger lr, more epochs, or train='head'.",
            classes[predicted[0]],
        )


def train_multilabel(
    model: LangCell,
    adata: AnnData,
    targets: np.ndarray | pd.DataFrame,
    *,
    layer: str | None,
    gamma: float,
    alpha: float,
    validation_size: float,
    seed: int,
    **how: Any,
) -> None:
    """Learn labels of which a cell may have several; see `LangCell.train_multilabel`."""
    targets = in_obs_order(targets, adata, "targets")
    values = np.asarray(targets, dtype=np.float32)
    shape_fits = values.ndim == 2 and len(values) == adata.n_obs and values.shape[1] > 0
    if not shape_fits or not np.isin(values, (0, 1)).all():
        msg = (
            f"targets must be 0 or 1 for every cell and label, of shape ({adata.n_obs}, number of labels); got shape "
            f"{values.shape} with values {np.unique(values)[:3].tolist()}."
        )
        raise ValueError(msg)
    names = pd.Index(targets.columns if isinstance(targets, pd.DataFrame) else range(values.shape[1])).map(str)
    if not names.is_unique:
        msg = f"targets has the column {names[names.duplicated()][0]!r} more than once. Give every label its own name."
        raise ValueError(msg)
    cells = TrainingCells(
        model._reader(adata, layer, "LangCell.train_multilabel"), model.genes, model.config.max_length
    )
    rows = stratified(np.zeros(adata.n_obs), np.arange(adata.n_obs), validation_size, seed)
    attach_head(model, names.tolist(), multilabel=True, seed=seed)

    def loss(logits: Tensor, present: Tensor) -> Tensor:
        return focal_loss(logits, present, gamma=gamma, alpha=alpha)

    learn(model, cells, ClassLoss(model.module, cells, values, loss), rows, seed=seed, **how)


# Not inference_mode: there autocast would cast every weight anew at every batch.
@torch.no_grad()
def predict_classes(
    model: LangCell,
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> np.ndarray:
    """Probabilities of the classes; see `LangCell.predict_classes`."""
    if not model.config.n_classes:
        msg = "This model has no classification head yet: model.train_classifier(reference, labels) makes one."
        raise ValueError(msg)
    compute = Compute.resolve(device, precision, batch_size)
    stream = model.stream(model._reader(adata, layer, "LangCell.predict_classes"), compute)
    probabilities = np.empty((adata.n_obs, model.config.n_classes), dtype=np.float32)
    with compute.autocast():
        for batch in stream:
            logits = model.module.classifier(model.module.cell(batch.tokens, batch.present, n_wanted=1)).float()
            given = logits.sigmoid() if model.config.multilabel else logits.softmax(1)
            probabilities[batch.rows] = given.cpu().numpy()
    return probabilities
