"""Fine-tuning on spots and reference together, each with its own measured genes (section 4.3 of the paper)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scfoundry._device import Compute
from scfoundry.data.matrix.contexts import Context
from scfoundry.model.cellplm._objectives import draw_mask, keep_cells
from scfoundry.model.cellplm._tissues import Tissues
from scfoundry.nn.negative_binomial import negative_binomial_loss
from scfoundry.train.contexts import fine_tune

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Precision
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.cellplm._config import CellPLMConfig
    from scfoundry.model.cellplm._model import CellPLM
    from scfoundry.model.cellplm._module import CellPLMModule
    from scfoundry.model.cellplm._tissues import TissueSample

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


def imputation_loss(
    module: CellPLMModule,
    sample: TissueSample,
    genes: Tensor,
    *,
    shown: Tensor,
    step: int,
    config: CellPLMConfig,
) -> Tensor:
    """Loss of some genes of a sample, the mean scaled to what was counted of them; masked entries only in training.

    Parameters
    ----------
    module
        The model.
    sample
        Cells of one context.
    genes
        Vocabulary positions of genes to predict, (g,).
    shown
        Those that the encoder is shown, the panel of the spots, for cells of the reference, too.
    step
        Training step, which sets the weight of the KL term.
    config
        Shares of masked cells and genes.
    """
    seen = sample.restricted(shown).to(module.device)
    expression = seen.counts.log_normalised(config.library_size)
    if module.training:
        expression = expression.without(draw_mask(expression.n_cells, expression.n_genes, config).to(module.device))
    latent = module.latent.sample(module.encode(expression, seen.coordinates))
    genes = genes.to(module.device)
    mean, dispersion = module.decoder(latent.z, genes=genes)
    loss, _ = negative_binomial_loss(sample.counts.to(module.device), mean, dispersion, genes=genes)
    return loss.mean() + module.latent.loss(latent, step)


def fine_tune_on_both(
    model: CellPLM,
    spots: tuple[CountsReader, Sequence[Context], Mapping[str, np.ndarray]],
    cells: tuple[CountsReader, Sequence[Context]],
    *,
    panel: NDArray[np.int64],
    hidden: NDArray[np.int64],
    max_epochs: int | None,
    seed: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Train all parts of a model by the negative binomial loss of what each side has measured.

    Parameters
    ----------
    model
        Is changed: pass a copy.
    spots
        Their counts, contexts and coordinates.
    cells
        Counts and contexts of the reference.
    panel
        Genes of the spots to learn from, vocabulary positions.
    hidden
        Genes of the spots that are hidden: their likelihood decides which weights stay.
    max_epochs
        Most passes over spots and cells; as many as make about 300 steps if `None`.
    seed, device, precision
        As in `fine_tune`.
    """
    reader, groups, xy = spots
    tissues = {f"spots {g.name}": Tissues(reader, {f"spots {name}": at for name, at in xy.items()}) for g in groups}
    tissues |= {f"cells {g.name}": Tissues(cells[0], {}) for g in cells[1]}
    contexts = [Context(f"spots {g.name}", g.rows) for g in groups]
    contexts += [Context(f"cells {g.name}", g.rows) for g in cells[1]]
    measured = dict.fromkeys(tissues, torch.from_numpy(cells[0].alignment.measured.astype(np.int64)))
    measured |= {f"spots {g.name}": torch.from_numpy(panel) for g in groups}
    module, config = model.module, replace(model.config, mask_cells=MASKED_CELLS, mask_genes=MASKED_GENES)
    shown, hidden_genes = torch.from_numpy(panel), torch.from_numpy(hidden)

    def loss(context: Context, step: int) -> dict[str, Tensor]:
        # Cells are dropped before they are read: a large sample costs no more than the cells that stay.
        kept = keep_cells(len(context.rows), config)
        sample = tissues[context.name].sample(context, kept)
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
        validate_on=range(len(groups)),
        seed=seed,
        compute=Compute(device, precision),
    )
