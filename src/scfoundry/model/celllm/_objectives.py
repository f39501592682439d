"""What CellLM learns from: hidden levels, whether a cell is of a tumour, and which views are of one cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from scfoundry.model.celllm._tokens import PAD
from scfoundry.nn.contrastive import two_view_loss
from scfoundry.nn.divide_and_conquer import SharedParameters, encode_in_parts
from scfoundry.train.objectives import weights_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

    from scfoundry.model.celllm._module import CellLMModule
    from scfoundry.model.celllm._tokens import CellBatch, CellTokens

__all__ = ["UNKNOWN", "Pretraining", "hide_levels", "objective_weights"]

OBJECTIVES = ("masked_values", "tumour", "contrastive")

# Of the levels to guess, nine in ten are shown as hidden and the others as they are (the recipe of scBERT).
SHOWN_AS_HIDDEN = 0.9
# Class of cells of which nobody knows whether they are of a tumour.
UNKNOWN = -1


def hide_levels(cells: CellBatch, ratio: float) -> tuple[CellBatch, Tensor]:
    """Cells without some of their levels, and which are to be guessed, (B, L): this share of each, rounded up."""
    eligible = cells.present.clone()
    eligible[:, 0] = False  # <cls>
    drawn = torch.rand(eligible.shape, device=eligible.device).masked_fill(~eligible, 2.0)
    n_chosen = (ratio * eligible.sum(1, keepdim=True)).ceil()
    chosen = drawn.argsort(1).argsort(1) < n_chosen
    hidden = chosen & (torch.rand(chosen.shape, device=chosen.device) < SHOWN_AS_HIDDEN)
    return cells._replace(tokens=cells.tokens.masked_fill(hidden, PAD)), chosen


class Pretraining:
    """Losses of one batch of cells, of any size, in the memory of a part of it.

    ``tumour``: whether cells are of a tumour, 1 or 0, -1 where that is not known, (n_obs,). ``weights``: of every
    objective; what has none (0) is not computed. ``part_size``: cells whose gradients are in memory at a time; as many
    as suit the device if `None`.

    The contrast is that of two passes with different dropout over the same cells (SimCSE); `<cls>` of the first pass
    says whether they are of a tumour, and a third pass guesses hidden levels.
    """

    def __init__(
        self,
        module: CellLMModule,
        cells: CellTokens,
        tumour: np.ndarray,
        weights: Mapping[str, float],
        part_size: int | None = None,
    ) -> None:
        self.module, self.cells, self.weights, self.part_size = module, cells, weights, part_size
        self.tumour = torch.from_numpy(tumour)

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """Sum of the weighted objectives, and each of them."""
        parts = self.cells.parts(rows, self.module.device, self.part_size)
        shared = SharedParameters(self.module.parameters())
        losses: dict[str, Tensor] = {}
        if self.weights["contrastive"] or self.weights["tumour"]:
            losses |= self.of_views(parts, shared)
        if self.weights["masked_values"]:
            losses["masked_values"] = self.masked_values(parts, shared)
        return {"loss": torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()} | losses

    def of_views(self, parts: list[CellBatch], shared: SharedParameters) -> dict[str, Tensor]:
        """Contrast of two views, and tumour against normal from the first."""
        n_views = 2 if self.weights["contrastive"] else 1
        outputs = iter(encode_in_parts(self.view, parts * n_views, shared))
        losses = {}
        if self.weights["contrastive"]:
            first, second = next(outputs).chunk(2)
            losses["contrastive"] = two_view_loss(first, second, self.module.config.temperature)
        if self.weights["tumour"]:
            truth = self.tumour[torch.cat([part.rows for part in parts]).cpu()].to(self.module.device)
            logits = next(outputs)[: len(truth)].float()
            n_known = (truth != UNKNOWN).sum().clamp(min=1)
            losses["tumour"] = F.cross_entropy(logits, truth, ignore_index=UNKNOWN, reduction="sum") / n_known
        return losses

    def view(self, cells: CellBatch) -> tuple[Tensor, ...]:
        """What the objectives of cells read: representations (B, Z), logits of a tumour (B, 2)."""
        contrastive = bool(self.weights["contrastive"])
        states = self.module(cells, n_wanted=None if contrastive else 1)
        outputs = [self.module.contrast(states, cells)] if contrastive else []
        outputs += [self.module.tumour_head(states[:, 0])] if self.weights["tumour"] else []
        return tuple(outputs)

    def masked_values(self, parts: list[CellBatch], shared: SharedParameters) -> Tensor:
        """Cross-entropy of hidden levels, a mean over those of all parts."""
        drawn = [(*hide_levels(part, self.module.config.mask_ratio), part.tokens) for part in parts]
        (of_cells,) = encode_in_parts(self.guesses, drawn, shared)
        n_chosen = torch.stack([chosen.sum() for _, chosen, _ in drawn]).sum()
        return of_cells.sum() / n_chosen.clamp(min=1)

    def guesses(self, drawn: tuple[CellBatch, Tensor, Tensor]) -> tuple[Tensor]:
        """Cross-entropy of the hidden levels, summed within each cell, (B,)."""
        shown, chosen, tokens = drawn
        logits = self.module.level_logits(self.module(shown)).float()
        losses = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
        return ((losses * chosen).sum(1),)


def objective_weights(given: Mapping[str, float] | None, missing: Mapping[str, str]) -> dict[str, float]:
    """Weight of every objective: 1 unless given, 0 for those that are ``missing``, by name and why."""
    weights = weights_of({name: 0.0 if name in missing else 1.0 for name in OBJECTIVES}, given)
    if asked := [why for name, why in missing.items() if weights[name]]:
        raise ValueError(asked[0])
    return weights
