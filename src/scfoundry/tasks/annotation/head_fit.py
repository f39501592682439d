"""How a linear head is fitted to features and labels, by any loss of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import linalg, sparse

from scfoundry.nn.losses import hard_cell_weights, hard_classes
from scfoundry.stats.softmax_regression import softmax_regression

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.nn.label_loss import LabelLoss

__all__ = ["fit_head"]

# Cells up to which features that outnumber them are turned into as many axes as there are cells.
MOST_TURNED = 3000
# Variance of an axis, of the largest, below which it is rounding.
ROUNDING = 1e-12
# Draws of noise for every cell, each with its negative.
NOISE_PAIRS = 2
# Largest entry of the gradient of the summed loss at which a fit ends: labels change no more.
GRADIENT = 1e-4
# Times that hard examples are looked for, by what was fitted before.
MINING_ROUNDS = 2


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
    the noise cancels as it does in expectation; hard examples are those of the fit before, twice over.
    """
    if len(codes) < features.shape[1] and len(codes) <= MOST_TURNED:
        turned, back = _turned(features)
        weights, bias = _fit(turned, codes, n_classes, loss, rng, **how)
        return np.asarray(features.T @ (back @ weights)), bias
    return _fit(features, codes, n_classes, loss, rng, **how)


def _turned(features: NDArray[np.floating] | sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (n, F) of n cells on their own axes, (n, k), and what turns weights of these back, (n, k).

    The best weights under a ridge lie in the span of the cells and are as long on any orthogonal axes of it, so that
    the optimum is the same, and every step costs n numbers per cell in place of F.
    """
    products: Any = features @ features.T
    values, vectors = linalg.eigh(products.toarray() if sparse.issparse(products) else products)
    held = values > ROUNDING * values[-1]
    lengths = np.sqrt(values[held])
    return vectors[:, held] * lengths, vectors[:, held] / lengths


def _fit(
    features: NDArray[np.floating] | sparse.csr_matrix,
    codes: NDArray[np.int64],
    n_classes: int,
    loss: LabelLoss,
    rng: np.random.Generator,
    **how: Any,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if loss.plain:
        return softmax_regression(features, codes, n_classes, **how)
    targets, counts = torch.from_numpy(codes), torch.from_numpy(np.bincount(codes, minlength=n_classes))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    draws: Tensor | None = None  # (R n, C), R times all cells
    repeats = 1
    among: Tensor | None = None
    weights = torch.ones(len(codes)).double()

    def summed(logits: Tensor, classes: Tensor | None) -> Tensor:
        within = None if classes is None else classes.repeat(repeats, 1)
        every, truth = logits.repeat(repeats, 1), targets.repeat(repeats)
        values = loss.loss(every, truth, counts, among=within, draw=draws, reduction="none")
        return weights @ values.reshape(repeats, -1).mean(0)

    def of_logits(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = torch.from_numpy(values).requires_grad_()
        total = summed(logits, None)
        if among is not None:
            total = total + summed(logits, among)
        (slopes,) = torch.autograd.grad(total, logits)
        return float(total.detach()), slopes.numpy()

    offset = how.get("offset")
    how |= {"loss_of_logits": of_logits, "gradient": GRADIENT}
    # The fit to noise begins at the one without, to which it lies close.
    noise = loss.loss.draw(torch.empty(NOISE_PAIRS * len(codes), n_classes).double(), generator)
    if noise is None:
        found = softmax_regression(features, codes, n_classes, **how)
    else:
        draws = torch.zeros(len(codes), n_classes).double()
        found = softmax_regression(features, codes, n_classes, **how)
        draws, repeats = torch.cat([noise, -noise]), 2 * NOISE_PAIRS
        found = softmax_regression(features, codes, n_classes, start=found, **how)
    for _ in range(MINING_ROUNDS if loss.hard_mining else 0):
        logits = torch.from_numpy(features @ found[0] + found[1] + (0.0 if offset is None else offset))
        before = among, weights
        if loss.mines_classes:
            among = hard_classes(logits, targets, loss.n_hard(n_classes))
        else:
            weights = hard_cell_weights(logits, targets)
        if before[0] is not None and among is not None and torch.equal(before[0], among):
            break
        found = softmax_regression(features, codes, n_classes, start=found, **how)
    return found
