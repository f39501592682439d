"""How a linear head is fitted to features and labels, by any loss of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfoundry.nn.losses import hard_cell_weights, hard_classes
from scfoundry.stats.softmax_regression import softmax_regression

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

    from scfoundry.nn.label_loss import LabelLoss

__all__ = ["fit_head"]

# Draws of noise for every cell, each with its negative.
NOISE_PAIRS = 4
# Times that hard examples are looked for, by what was fitted before.
MINING_ROUNDS = 4


def fit_head(
    features: NDArray[np.floating] | sparse.csr_matrix,
    codes: NDArray[np.int64],
    n_classes: int,
    loss: LabelLoss,
    rng: np.random.Generator,
    **how: Any,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (F, C) and bias (C,) that minimise a loss of labels and a ridge; see `softmax_regression`.

    What is random or jumps is held still while the optimum is found, so that there is one, and the same in every run:
    the mean over noise is that over a few draws per cell, each with its negative, by which what is of first order in
    the noise cancels as it does in expectation; hard examples are those of the fit before, a few times over.
    """
    if loss.plain:
        return softmax_regression(features, codes, n_classes, **how)
    targets, counts = torch.from_numpy(codes), torch.from_numpy(np.bincount(codes, minlength=n_classes))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    draw = [loss.loss.draw(torch.empty(len(codes), n_classes).double(), generator) for _ in range(NOISE_PAIRS)]
    draws: list[Tensor | None] = [None]
    if draw[0] is not None:
        draws = [sign * some for some in draw if some is not None for sign in (1, -1)]
    among: Tensor | None = None
    weights = torch.ones(len(codes)).double()

    def summed(logits: Tensor, classes: Tensor | None) -> Tensor:
        values = [loss.loss(logits, targets, counts, among=classes, draw=some, reduction="none") for some in draws]
        return weights @ torch.stack(values).mean(0)

    def of_logits(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = torch.from_numpy(values).requires_grad_()
        total = summed(logits, None)
        if among is not None:
            total = total + summed(logits, among)
        (slopes,) = torch.autograd.grad(total, logits)
        return float(total.detach()), slopes.numpy()

    offset = how.get("offset")
    found = softmax_regression(features, codes, n_classes, loss_of_logits=of_logits, **how)
    for _ in range(MINING_ROUNDS if loss.hard_mining else 0):
        logits = torch.from_numpy(features @ found[0] + found[1] + (0.0 if offset is None else offset))
        before = among, weights
        if loss.mines_classes:
            among = hard_classes(logits, targets, loss.n_hard(n_classes))
        else:
            weights = hard_cell_weights(logits, targets)
        if before[0] is not None and among is not None and torch.equal(before[0], among):
            break
        found = softmax_regression(features, codes, n_classes, loss_of_logits=of_logits, start=found, **how)
    return found
