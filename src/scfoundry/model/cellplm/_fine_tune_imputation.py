"""Fine-tuning on spots and reference together, each with its own measured genes (section 4.3 of the paper)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from scfoundry.data.matrix.contexts import Context
from scfoundry.model.cellplm._objectives import imputation_loss, keep_cells
from scfoundry.model.cellplm._samples import ContextReader
from scfoundry.train.contexts import fine_tune

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model.cellplm._module import CellPLMModule
    from scfoundry.train.plan import Trainable

__all__ = ["fine_tune_on_both"]

# Published: most cells are masked, a quarter of their genes.
MASKED_CELLS, MASKED_GENES = 0.95, 0.25
WEIGHT_DECAY = 1e-6
# The decoder has most to learn; the encoder keeps what it knows.
DECODER_LR, LR = 1e-3, 2e-4
# A step decodes some of the genes: all of them cost ten times as much and teach little more.
GENES_PER_STEP = 2000
PATIENCE = 5
N_STEPS = 300


def fine_tune_on_both(
    model: Trainable[CellPLMModule],
    spots: Cells,
    reference: Cells,
    *,
    panel: NDArray[np.int64],
    hidden: NDArray[np.int64],
    max_epochs: int | None,
    seed: int,
    compute: Compute,
) -> None:
    """Train all parts of a model by the negative binomial loss of what each data set has measured.

    ``panel``: genes of the spots to learn from, vocabulary positions. ``hidden``: genes of the spots that are hidden:
    their likelihood decides which weights stay. ``max_epochs``: most passes over spots and cells; as many as make about
    300 steps if `None`.
    """
    module, config = model.module, replace(model.module.config, mask_cells=MASKED_CELLS, mask_genes=MASKED_GENES)
    shown, hidden_genes = torch.from_numpy(panel), torch.from_numpy(hidden)
    contexts, readers, measured = [], {}, {}
    for kind, cells, genes in (("spots", spots.ordered(), panel), ("cells", reference.ordered(), reference.measured)):
        own = ContextReader(cells.reader, {f"{kind} {name}": xy for name, xy in cells.coordinates.items()})
        for context in cells.contexts:
            name = f"{kind} {context.name}"
            contexts.append(Context(name, context.rows))
            readers[name], measured[name] = own, torch.from_numpy(genes)

    def loss(context: Context, step: int) -> dict[str, Tensor]:
        # Cells are dropped before they are read: a large sample costs no more than the cells that stay.
        kept = keep_cells(len(context.rows), config)
        sample = readers[context.name].sample(context, kept)
        genes = hidden_genes
        if module.training:
            genes = measured[context.name]
            genes = genes[torch.randperm(len(genes))[:GENES_PER_STEP]].sort().values
        return {"loss": imputation_loss(module, sample, genes, shown=shown, step=step, config=config)}

    steps = sum(math.ceil(len(context.rows) / config.max_cells) for context in contexts)
    fine_tune(
        model,
        contexts,
        loss,
        parts=("embedder", "layers", "norm", "latent", "decoder"),
        cells_per_step=config.max_cells,
        max_epochs=math.ceil(N_STEPS / steps) if max_epochs is None else max_epochs,
        lr=LR,
        part_lrs={"decoder": DECODER_LR},
        weight_decay=WEIGHT_DECAY,
        warmup_steps=20,
        schedule="cosine",
        patience=PATIENCE if len(hidden) else None,
        validate_on=range(len(spots.contexts)),
        seed=seed,
        compute=compute,
    )
