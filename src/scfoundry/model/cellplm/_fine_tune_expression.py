"""Fine-tuning without labels: masked expression as in pre-training, of the cells at hand (section 3.5 of the paper)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scfoundry.model.cellplm._objectives import keep_cells, pretraining_loss
from scfoundry.model.cellplm._samples import ContextReader
from scfoundry.train.contexts import fine_tune

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.model.cellplm._module import CellPLMModule
    from scfoundry.train.plan import Trainable

__all__ = ["KL_WARMUP_STEPS", "fine_tune_on_expression"]

# The decoder has most to learn; gene vectors keep what they know, as the released fine-tuning has it.
DECODER_LR, LR, EMBEDDER_LR = 1e-3, 2e-4, 2e-5
WEIGHT_DECAY = 1e-8
# A step decodes some of the genes: all of them cost ten times as much and teach little more.
GENES_PER_STEP = 2000
# Small steps, and many: a step costs as much as its cells.
MAX_CELLS = 128
N_STEPS = 300
# Of integration: from the middle of the training on the prior of the latent has its full weight.
KL_WARMUP_STEPS = N_STEPS // 2


def fine_tune_on_expression(
    model: Trainable[CellPLMModule],
    cells: Cells,
    *,
    together: bool = False,
    max_epochs: int | None,
    seed: int,
    compute: Compute,
) -> None:
    """Train all parts of a model to recover masked counts of whole contexts, of large ones a random part per step.

    ``cells``: those with counts. ``max_epochs``: passes over them; as many as make about 300 steps if `None`. A decoder
    with a row for every context is told which one a cell is of. ``together``: cells of all contexts see each other.
    """
    module, cells = model.module, cells.ordered()
    config = replace(module.config, max_cells=min(MAX_CELLS, module.config.max_cells))
    batches = None
    if len(cells.contexts) > 1 and config.n_batches == len(cells.contexts):
        batches = np.empty(cells.n_obs, dtype=np.int64)
        for number, context in enumerate(cells.contexts):
            batches[context.rows] = number
    cells = cells.as_one_context().ordered() if together else cells
    reader = ContextReader(cells.reader, cells.coordinates, batches=batches)

    def loss(context: Context, step: int) -> dict[str, Tensor]:
        # Cells are dropped before they are read: a large sample costs no more than the cells that stay.
        sample = reader.sample(context, keep_cells(len(context.rows), config))
        genes = sample.genes[torch.randperm(len(sample.genes))[:GENES_PER_STEP]].sort().values
        return pretraining_loss(module, replace(sample, genes=genes).to(module.device), step)

    steps = sum(math.ceil(len(context.rows) / config.max_cells) for context in cells.contexts)
    fine_tune(
        model,
        cells.contexts,
        loss,
        parts=("embedder", "layers", "norm", "latent", "decoder"),
        cells_per_step=config.max_cells,
        max_epochs=math.ceil(N_STEPS / steps) if max_epochs is None else max_epochs,
        lr=LR,
        part_lrs={"embedder": EMBEDDER_LR, "decoder": DECODER_LR},
        weight_decay=WEIGHT_DECAY,
        warmup_steps=20,
        schedule="cosine",
        seed=seed,
        compute=compute,
    )
