"""Batch integration as scGPT was fine-tuned for it (Cui et al. 2024): genes with their zeros, batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfoundry.model.celler._objectives import MaskedValues, objective_weights
from scfoundry.model.celler._training import MAX_GRADIENT_NORM, WARMUP_SHARE
from scfoundry.train.cells import CellDataModule, CellTrainingPlan
from scfoundry.train.plan import fit
from scfoundry.train.rates import rate_at_width

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model.celler._module import CellerModule
    from scfoundry.model.celler._tokens import CellTokens
    from scfoundry.train.plan import Trainable

__all__ = ["integration_config", "learn_integration"]

N_EPOCHS, BATCH_SIZE, MASK_RATIO, LR = 15, 64, 0.4, 1e-4


def integration_config(cells: Cells) -> dict[str, Any]:
    """Values of the configuration that the published recipe changes, for the batches of cells and their genes."""
    heads = {"mvc": True, "explicit_zeros": True, "batch_tokens": True, "domain_norm": True, "discriminator": True}
    batches = tuple(sorted(context.name for context in cells.contexts))
    names = {"n_batches": len(batches), "batches": batches, "n_classes": 0, "classes": (), "class_counts": ()}
    return heads | names | {"cls_value": 0, "mask_ratio": MASK_RATIO, "max_length": len(cells.measured) + 1}


def learn_integration(
    model: Trainable[CellerModule], cells: CellTokens, *, max_epochs: int | None, seed: int, compute: Compute
) -> None:
    """Train all weights on hidden values and on the objectives of integration; then measure every batch anew.

    ``cells``: with their batches. A step sees cells of one batch, as published. All cells teach.
    """
    module, lengths = model.module, cells.lengths()
    rows = np.flatnonzero(lengths)
    sizes: dict[str, Any] = {"lengths": lengths, "batch_size": BATCH_SIZE}
    data = CellDataModule(rows, rows[:0], **sizes, groups=cells.batches, blocks=cells.reader.by_blocks())
    epochs = N_EPOCHS if max_epochs is None else max_epochs
    plan = CellTrainingPlan(
        module,
        data,
        MaskedValues(module, cells, objective_weights(module.config, None)),
        lr=rate_at_width(LR, module.config.n_hidden),
        weight_decay=0.0,
        warmup_steps=int(WARMUP_SHARE * epochs * len(data.train_dataloader())),
        schedule="cosine",
        seed=seed,
    )
    how: dict[str, Any] = compute.trainer_arguments() | {"gradient_clip_val": MAX_GRADIENT_NORM}
    fit(model, plan, data, max_epochs=epochs, **how)
    measure_batches(module.to(compute.device).eval(), cells, compute.device)


@torch.no_grad()
def measure_batches(module: CellerModule, cells: CellTokens, device: torch.device) -> None:
    """Normalise every batch by its cells with all values shown, as embedding reads them, and by the final weights."""

    def positions() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in cells.stream(device):
            x, of_cell = module.gene_and_value(batch), batch.batches
            present = torch.ones_like(batch.genes, dtype=torch.bool) if batch.present is None else batch.present
            yield x[present], of_cell[:, None].expand_as(present)[present]

    module.domain_norm.measure(positions())
