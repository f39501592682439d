"""Fine-tuning of an encoder to labels, until cells that are held out are named no better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scfoundry._settings import logger, without_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.nn.label_loss import LabelLoss
    from scfoundry.tasks.annotation.linear_heads import EmbeddingHead

__all__ = ["fine_tune_encoder"]

# The encoder keeps what it knows: it learns slower than the head, and some of its parts slower still.
HEAD_LR, LR, WEIGHT_DECAY = 1e-3, 1e-4, 1e-4
MAX_EPOCHS, PATIENCE, WARMUP_STEPS = 60, 15, 5
HEAD_DROPOUT = 0.5
# Cells of a context that a step sees.
SHARE_KEPT, MOST_KEPT = 0.7, 512
# Cells of which some genes are hidden, each a share drawn from a Beta distribution whose mode is a quarter.
SHARE_HIDING, HIDDEN_BETA, MOST_HIDDEN = 0.75, (5.0, 13.0), 0.9


class _Head(nn.Module):
    """An `EmbeddingHead` that learns."""

    mean: Tensor
    scale: Tensor

    def __init__(self, fitted: EmbeddingHead) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(fitted.mean).float())
        self.register_buffer("scale", torch.from_numpy(fitted.scale).float())
        self.layer = nn.Linear(*fitted.weights.shape)
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(fitted.weights.T))
            self.layer.bias.copy_(torch.from_numpy(fitted.bias))
        self.dropout = nn.Dropout(HEAD_DROPOUT)

    def forward(self, latent: Tensor) -> Tensor:
        """Logits, (n, Z) to (n, L)."""
        return self.layer(self.dropout((latent - self.mean) / self.scale))

    def learned(self, fitted: EmbeddingHead) -> EmbeddingHead:
        """The weights as they are now."""
        weights, bias = (p.detach().cpu().double().numpy() for p in (self.layer.weight.T, self.layer.bias))
        return fitted._replace(weights=weights, bias=bias)


def fine_tune_encoder(
    model: Any,
    cells: Cells,
    codes: NDArray[np.int64],
    held_out: NDArray[np.int64],
    fitted: EmbeddingHead,
    *,
    loss: LabelLoss,
    max_epochs: int | None,
    seed: int,
    compute: Compute,
    lora: bool = False,
) -> tuple[Any, EmbeddingHead]:
    """Fine-tune the encoder in a copy of a `Tunable` model together with a head that was fitted to its embedding.

    Labelled cells, numbered by ``codes``, come first among the cells; the rows ``held_out`` of them say when to stop,
    by their cross-entropy whatever the ``loss``, and the weights that are best by them are kept.
    """
    if not len(held_out):
        logger.warning(
            "Annotator.fit: no label has two cells, so nothing is held out to stop by: all epochs are run, and "
            'the last weights stay. With so few cells, learn a head alone: train="head".'
        )
    tuned, head = model.copy(), _Head(fitted)
    module = tuned.module
    groups = [context for context in cells.ordered().contexts if np.any(context.rows < len(codes))]
    targets = np.full(cells.n_obs, -1)
    targets[: len(codes)] = codes
    is_held_out = np.isin(np.arange(cells.n_obs), held_out)
    # Every context counts for as many cells as are held out in it.
    share = len(groups) / max(len(held_out), 1)
    sizes = torch.from_numpy(np.bincount(np.delete(codes, held_out), minlength=codes.max() + 1))

    def learned(context: Context) -> Tensor:
        n_kept = min(MOST_KEPT, max(1, int(SHARE_KEPT * len(context.rows))))
        rows = context.rows[torch.randperm(len(context.rows))[:n_kept].sort().values.numpy()]
        latent = module.embed(tuned.batch(_input_dropout(cells.read(rows))))
        counting = (targets[rows] >= 0) & ~is_held_out[rows]
        logits, truth = read(latent, rows, counting)
        return loss(logits, truth, sizes, reduction="sum") / max(int(counting.sum()), 1)

    def held_out_loss(context: Context) -> Tensor:
        with without_progress():
            latent = torch.from_numpy(tuned.embed(cells.take(context.rows), compute)).to(module.device)
        logits, truth = read(latent, context.rows, is_held_out[context.rows])
        return F.cross_entropy(logits, truth, reduction="sum") * share

    def read(latent: Tensor, rows: NDArray[np.int64], counting: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        logits = head(latent[torch.from_numpy(counting).to(latent.device)])
        return logits.float(), torch.from_numpy(targets[rows[counting]]).to(latent.device)

    from scfoundry.train.contexts import fine_tune

    fine_tune(
        tuned,
        groups,
        lambda context, step: {"loss": learned(context) if module.training else held_out_loss(context)},
        parts=[""],
        head=head,
        cells_per_step=MOST_KEPT,
        max_epochs=MAX_EPOCHS if max_epochs is None else max_epochs,
        lr=HEAD_LR,
        part_lrs={name: LR * tuned.part_rates.get(name, 1.0) for name, _ in module.named_children()},
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP_STEPS * len(groups),
        patience=PATIENCE if len(held_out) else None,
        seed=seed,
        compute=compute,
        lora=lora,
    )
    return tuned, head.learned(fitted)


def _input_dropout(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Hide some detected genes of most cells, (n, G)."""
    n_cells = counts.shape[0]
    hiding = torch.rand(n_cells) < SHARE_HIDING
    rates = torch.distributions.Beta(*HIDDEN_BETA).sample((n_cells,)).clamp(max=MOST_HIDDEN)
    rates = torch.where(hiding, rates, 0.0).repeat_interleave(torch.from_numpy(np.diff(counts.indptr)).long())
    shown = counts.copy()
    shown.data[(torch.rand(len(rates)) < rates).numpy()] = 0
    return shown
