"""Fine-tuning of a CellPLM to cell types: the whole encoder, until cells that are held out are named no better."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.nn import functional as F

from scfoundry._device import Compute
from scfoundry._settings import logger
from scfoundry.model.cellplm._objectives import keep_cells, mask_rates
from scfoundry.model.cellplm._streaming import chunk_size, stream_embeddings
from scfoundry.model.cellplm._tissues import Tissues
from scfoundry.nn.counts import SparseCounts
from scfoundry.train.contexts import fine_tune

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Precision
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.data.matrix.joint_reader import JointReader
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.cellplm._config import CellPLMConfig
    from scfoundry.model.cellplm._model import CellPLM

__all__ = ["MAX_EPOCHS", "fine_tune_encoder", "hold_out"]

# The encoder keeps what it knows.
MAX_EPOCHS, PATIENCE, WARMUP_STEPS = 60, 15, 5
LR, PART_LRS, WEIGHT_DECAY = 1e-3, {"embedder": 1e-5, "layers": 1e-4, "latent": 1e-4}, 1e-4
VALIDATION_SIZE = 0.1


def hold_out(codes: NDArray[np.int64], by_name: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mark cells to judge by: the same share of every label, at least one cell of each that has two or more.

    Parameters
    ----------
    codes
        Number of the label of every cell, (n,).
    by_name
        Cells in the order of their names, so that the order they lie in plays no part.
    rng
        Draws them.
    """
    held_out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        own = rng.permutation(by_name[codes[by_name] == code])
        held_out[own[: min(max(int(VALIDATION_SIZE * len(own)), 1), len(own) - 1)]] = True
    if not held_out.any():
        logger.warning(
            "CellPLM.fit_labels: no label has two cells, so nothing is held out to stop by: all epochs are run, and "
            'the last weights stay. With so few cells, learn a head alone: train="head".'
        )
    return held_out


def fine_tune_encoder(
    model: CellPLM,
    cells: JointReader,
    groups: Sequence[Context],
    codes: NDArray[np.int64],
    held_out: NDArray[np.bool_],
    *,
    max_epochs: int,
    seed: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Fine-tune the encoder together with the opinion by the embedding.

    Parameters
    ----------
    model
        Is changed; its opinion by the embedding has been fitted.
    cells
        Labelled cells, and after them any others.
    groups
        Their contexts.
    codes, held_out
        Label of every labelled cell, and whether it is judged by instead of learned from, (n,).
    max_epochs, seed, device, precision
        As in `fine_tune`.
    """
    module, config = model.module, model.config
    head = module.classifier
    groups = [context for context in groups if np.any(context.rows < len(codes))]
    targets = np.full(cells.n_obs, -1)
    targets[: len(codes)] = codes
    judged = np.zeros(cells.n_obs, dtype=bool)
    judged[: len(codes)] = held_out
    # Every context counts for as many cells as are held out in it.
    share = len(groups) / max(int(held_out.sum()), 1)
    tissues = Tissues(cast("CountsReader", cells), {})

    def learned(context: Context) -> Tensor:
        rows = context.rows[keep_cells(len(context.rows), config).numpy()]
        counts = SparseCounts.from_csr(cells.read(rows)).to(module.device)
        expression = _input_dropout(counts.log_normalised(config.library_size), config)
        latent = module.latent.embedding(module.encode(expression))
        counting = (targets[rows] >= 0) & ~judged[rows]
        return cross_entropy(latent, rows, counting) / max(int(counting.sum()), 1)

    def held_out_loss(context: Context) -> Tensor:
        # A whole context may not fit on the device at once.
        chunks = tissues.chunks(context, chunk_size(None, module.device))
        total, start = torch.zeros((), device=module.device), 0
        for latent in stream_embeddings(module, chunks, len(context.rows), device=module.device):
            rows = context.rows[start : start + len(latent)]
            total += cross_entropy(latent.to(module.device), rows, judged[rows])
            start += len(latent)
        return total * share

    def cross_entropy(latent: Tensor, rows: NDArray[np.int64], counting: NDArray[np.bool_]) -> Tensor:
        logits = head.by_latent(latent[torch.from_numpy(counting).to(latent.device)])
        truth = torch.from_numpy(targets[rows[counting]]).to(latent.device)
        return F.cross_entropy(logits.float(), truth, reduction="sum")

    fine_tune(
        model,
        groups,
        lambda context, step: {"loss": learned(context) if module.training else held_out_loss(context)},
        parts=("embedder", "layers", "latent", "classifier.latent"),
        cells_per_step=config.max_cells,
        max_epochs=max_epochs,
        lr=LR,
        part_lrs=PART_LRS,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP_STEPS * len(groups),
        patience=PATIENCE if held_out.any() else None,
        seed=seed,
        compute=Compute(device, precision),
    )


def _input_dropout(expression: SparseCounts, config: CellPLMConfig) -> SparseCounts:
    """Hide some detected genes of most cells, as in pretraining; none if the configuration masks none."""
    if not config.mask_cells or not config.mask_genes:
        return expression
    chosen = torch.rand(expression.n_cells) < config.mask_cells
    rate = torch.where(chosen, mask_rates(expression.n_cells, config), 0.0).to(expression.values.device)
    hidden = torch.rand_like(expression.values) < rate[expression.rows]
    return replace(expression, values=expression.values.masked_fill(hidden, 0.0))
