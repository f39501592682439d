"""Pre-training of LangCell in two stages (Zhao et al. 2024): cells alone, then cells and texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scfoundry.model.langcell._divided import DividedPretraining
from scfoundry.model.langcell._momentum import Momentum
from scfoundry.model.langcell._pretraining import Pretraining
from scfoundry.train.cells import CellDataModule, CellTrainingPlan, split_cells
from scfoundry.train.contrast import DIVIDED, check_contrast
from scfoundry.train.objectives import weights_of
from scfoundry.train.plan import fit, training_only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfoundry.model.langcell._module import LangCellModule
    from scfoundry.model.langcell._training_data import CellTexts, TrainingCells
    from scfoundry.train.plan import Trainable

__all__ = ["Contrast", "Stage", "objective_weights", "pretrain"]

Stage = Literal[1, 2]
Contrast = Literal["momentum", "divide_and_conquer"]

# What learns in a stage, and of what the stage keeps slow copies.
LEARNING = {1: ("cell", "cell_projection"), 2: ("cell", "cell_projection", "text", "text_projection", "match_head")}
COPIED = {1: ("cell", "cell_projection"), 2: ("cell", "cell_projection", "text", "text_projection")}
OBJECTIVES = {1: ("masked_genes", "cell_cell"), 2: ("masked_genes", "cell_cell", "cell_text", "matching")}


class PretrainingPlan(CellTrainingPlan):
    """Batches of cells, and the slow copies whose state belongs to that of the training."""

    def __init__(self, momentum: Momentum, *what: Any, **how: Any) -> None:
        super().__init__(*what, **how)
        self.momentum = momentum


def pretrain(
    model: Trainable[LangCellModule],
    cells: TrainingCells,
    texts: CellTexts | None,
    weights: Mapping[str, float],
    *,
    stage: Stage,
    contrast: Contrast,
    batch_size: int,
    part_size: int | None,
    validation_size: float,
    plan_kwargs: Mapping[str, Any],
    **fit_kwargs: Any,
) -> None:
    """Train a model on cells, in stage 2 on their texts, too; see `LangCell.train`."""
    check_contrast(contrast, batch_size=batch_size, part_size=part_size)
    lengths = cells.lengths()
    split = split_cells(lengths > 0, validation_size, plan_kwargs["seed"])
    data = CellDataModule(*split, lengths=lengths, batch_size=batch_size, blocks=cells.reader.by_blocks())
    if contrast == DIVIDED:
        divided = DividedPretraining(model.module, cells, texts, weights, part_size)
        plan = CellTrainingPlan(model.module, data, divided, **plan_kwargs)
    else:
        n_columns = 0 if texts is None else texts.described.shape[1]
        momentum = Momentum(model.module, COPIED[stage], n_columns=n_columns)
        loss = Pretraining(model.module, momentum, cells, texts, weights)
        plan = PretrainingPlan(momentum, model.module, data, loss, **plan_kwargs)
    with training_only(model.module, LEARNING[stage]):
        fit(model, plan, data, **fit_kwargs)


def objective_weights(stage: Stage, given: Mapping[str, float] | None) -> dict[str, float]:
    """Weight of every objective of a stage, 1 unless given."""
    return weights_of(dict.fromkeys(OBJECTIVES[stage], 1.0), given, of=f"stage {stage}")
