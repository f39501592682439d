"""What Celler learns from before labels: hidden values, guessed twice, and the objectives of batch integration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from scfoundry._arguments import quoted
from scfoundry.model.celler._module import MASKED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

    from scfoundry.model.celler._config import CellerConfig
    from scfoundry.model.celler._module import CellBatch, CellerModule, Predictions
    from scfoundry.model.celler._tokens import CellTokens

__all__ = ["MaskedValues", "cell_similarity_loss", "hide_values", "masked_loss", "nonzero_loss", "objective_weights"]

# Similarity up to which cells are brought together, and the weight of that, in the published integration.
ECS_SIMILARITY, ECS_WEIGHT = 0.8, 10.0


def hide_values(cells: CellBatch, ratio: float) -> tuple[CellBatch, Tensor]:
    """The cells with each value hidden with this probability, and which are, (B, L); never ``<cls>`` nor padding."""
    eligible = torch.ones_like(cells.values, dtype=torch.bool) if cells.present is None else cells.present.clone()
    eligible[:, 0] = False
    drawn = torch.rand(cells.values.shape, device=cells.values.device).masked_fill(~eligible, 1.0)
    # Of very few values at least one is hidden, so that there is a loss.
    hidden = (drawn < ratio) | (eligible & (drawn == drawn.min()))
    return cells._replace(values=cells.values.masked_fill(hidden, MASKED)), hidden


def masked_loss(predicted: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error of the bins of hidden values, (B, L) each."""
    return F.mse_loss(predicted[hidden].float(), values[hidden].float())


def nonzero_loss(logits: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Negative log-likelihood of which hidden values are above zero, (B, L) each."""
    return F.binary_cross_entropy_with_logits(logits[hidden].float(), (values[hidden] > 0).float())


def cell_similarity_loss(cells: Tensor, similarity: float = ECS_SIMILARITY) -> Tensor:
    r"""Elastic cell similarity: the mean over all pairs of :math:`1 - (s - \beta)^2`, cells (B, D).

    :math:`s` is the cosine of two cells, 0 where it is negative or a cell meets itself, and :math:`\beta` is
    ``similarity``: pairs above it are drawn together, those below pushed apart.
    """
    unit = F.normalize(cells.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    cosine = (unit @ unit.T).relu().masked_fill(itself, 0.0)
    return (1 - (cosine - similarity) ** 2).mean()


def objective_weights(config: CellerConfig, given: Mapping[str, float] | None) -> dict[str, float]:
    """Weight of every objective that a model has heads for: as published unless given."""
    has_batches = bool(config.n_batches)
    weights = {"gep": 1.0, "ecs": ECS_WEIGHT if has_batches else 0.0}
    weights |= {"gepc": 1.0} if config.mvc else {}
    weights |= {"nonzero": 1.0} if config.explicit_zeros else {}
    weights |= {"dab": 1.0} if has_batches and config.discriminator else {}
    if unknown := sorted((given or {}).keys() - weights.keys()):
        msg = f"loss_weights has no {quoted(unknown)}; name objectives of this model: {quoted(weights)}."
        raise ValueError(msg)
    return weights | dict(given or {})


class MaskedValues:
    """Losses of one batch of cells some of whose values are hidden; what has no weight is not computed."""

    def __init__(self, module: CellerModule, cells: CellTokens, weights: Mapping[str, float]) -> None:
        self.module, self.cells, self.weights = module, cells, weights

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """Sum of the weighted objectives, and each of them."""
        cells = self.cells.batch(rows, self.module.device)
        ratios = self.module.config.mask_ratios
        shown, hidden = hide_values(cells, ratios[int(torch.randint(len(ratios), ()))])
        losses = self.losses(shown, cells.values, hidden)
        weighted = [self.weights[name] * loss for name, loss in losses.items()]
        return {"loss": torch.stack(weighted).sum()} | losses

    def losses(self, shown: CellBatch, values: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Every objective with a weight, given the true values (B, L)."""
        module, weights, losses = self.module, self.weights, {}
        states = module(shown)
        cell_states = states[:, 0]
        guesses: dict[str, Predictions] = {}
        if weights["gep"] or weights.get("nonzero"):
            guesses["gep"] = module.predict_values(states, shown)
        if weights.get("gepc"):
            guesses["gepc"] = module.predict_from_cells(cell_states, shown)
        for name, guess in guesses.items():
            if weights[name]:
                losses[name] = masked_loss(guess.values, values, hidden)
        if weights.get("nonzero"):
            losses["nonzero"] = sum(
                (nonzero_loss(g.nonzero, values, hidden) for g in guesses.values() if g.nonzero is not None),
                states.new_zeros(()),
            )
        if weights["ecs"]:
            losses["ecs"] = cell_similarity_loss(cell_states)
        if weights.get("dab"):
            losses["dab"] = F.cross_entropy(module.guess_batches(cell_states).float(), shown.batches)
        return losses
