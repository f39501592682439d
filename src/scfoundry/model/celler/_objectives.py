"""What Celler learns from before labels: hidden values, guessed twice, and the objectives of batch integration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from scfoundry.model.celler._module import MASKED
from scfoundry.nn.divide_and_conquer import encode_in_parts
from scfoundry.train.objectives import weights_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

    from scfoundry.model.celler._config import CellerConfig
    from scfoundry.model.celler._module import CellBatch, CellerModule, Predictions
    from scfoundry.model.celler._tokens import CellTokens

    # Cells with hidden values, which are hidden, and the true ones, (B, L) each.
    Drawn = tuple[CellBatch, Tensor, Tensor]

__all__ = ["MaskedValues", "cell_similarity_loss", "hide_values", "masked_loss", "objective_weights"]

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
    return weights_of(weights, given)


class MaskedValues:
    """Losses of one batch of cells some of whose values are hidden; what has no weight is not computed.

    ``part_size``: cells of which gradients are in memory at a time, all of a batch if `None`; it changes no gradient.
    """

    def __init__(
        self, module: CellerModule, cells: CellTokens, weights: Mapping[str, float], part_size: int | None = None
    ) -> None:
        self.module, self.cells, self.weights, self.part_size = module, cells, weights, part_size
        self.guessed = [name for name in ("gep", "gepc", "nonzero") if weights.get(name)]

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """Sum of the weighted objectives, and each of them."""
        ratios = self.module.config.mask_ratios
        ratio = ratios[int(torch.randint(len(ratios), ()))]
        parts = self.cells.parts(rows, self.module.device, self.part_size)
        losses = self.losses([(*hide_values(part, ratio), part.values) for part in parts])
        weighted = [self.weights[name] * loss for name, loss in losses.items()]
        return {"loss": torch.stack(weighted).sum()} | losses

    def losses(self, drawn: list[Drawn]) -> dict[str, Tensor]:
        """Every objective with a weight."""
        *errors, cell_states = encode_in_parts(self.of_part, drawn, self.module.parameters())
        n_hidden = torch.stack([hidden.sum() for _, hidden, _ in drawn]).sum()
        losses = {name: of_cells.sum() / n_hidden for name, of_cells in zip(self.guessed, errors, strict=True)}
        if self.weights["ecs"]:
            losses["ecs"] = cell_similarity_loss(cell_states)
        if self.weights.get("dab"):
            batches = torch.cat([shown.batches for shown, *_ in drawn])
            losses["dab"] = F.cross_entropy(self.module.guess_batches(cell_states).float(), batches)
        return losses

    def of_part(self, drawn: Drawn) -> tuple[Tensor, ...]:
        """Errors of all guesses at hidden values, spread over the cells of a part, (B,) each, and states, (B, D)."""
        shown, hidden, values = drawn
        states = self.module(shown)
        guesses: dict[str, Predictions] = {}
        if self.weights["gep"] or self.weights.get("nonzero"):
            guesses["gep"] = self.module.predict_values(states, shown)
        if self.weights.get("gepc"):
            guesses["gepc"] = self.module.predict_from_cells(states[:, 0], shown)
        means = {name: masked_loss(guess.values, values, hidden) for name, guess in guesses.items()}
        if self.weights.get("nonzero"):
            logits = [guess.nonzero for guess in guesses.values() if guess.nonzero is not None]
            means["nonzero"] = torch.stack([nonzero_loss(of_guess, values, hidden) for of_guess in logits]).sum()
        n_cells = len(values)
        errors = ((means[name] * hidden.sum() / n_cells).expand(n_cells) for name in self.guessed)
        return (*errors, states[:, 0])
