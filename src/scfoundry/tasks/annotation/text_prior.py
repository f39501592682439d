"""A linear head that starts from what the texts of its classes say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["TextPriorHead"]

RIDGE = 1.0
LEAST_PROBABILITY = 1e-4
MAX_STEPS = 200


class TextPriorHead:
    r"""Multinomial logistic regression on features of cells, with the zero-shot probabilities as an offset.

    .. math:: \text{logit}_{ij} = \log p_{ij} + w_j \cdot x_i + b_j,\qquad
        \min_{w, b} \sum_i \text{CE}_i + \tfrac{1}{2} (\lVert w \rVert^2 + \lVert b \rVert^2)

    Without cells it is the zero-shot annotation; the more cells there are, the less the texts count.

    Parameters
    ----------
    weights
        Of P classes, (P, F + 1), the last column being the bias.

    Examples
    --------
    >>> import numpy as np
    >>> features, prior = 10 * np.eye(2, dtype="float32"), np.full((2, 2), 0.5, dtype="float32")
    >>> TextPriorHead.fit(features, prior, np.array([1, 0]))(features, prior).argmax(1)
    array([1, 0])
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float32],
        prior: NDArray[np.float32],
        codes: NDArray[np.int64],
        *,
        device: torch.device | str = "cpu",
    ) -> TextPriorHead:
        """Fit to labelled cells.

        Parameters
        ----------
        features
            (n, F). The ridge expects them to be about 10 long: then a weight vector of length 1 moves a logit as far as
            the texts do.
        prior
            Zero-shot probabilities, (n, P).
        codes
            Classes, (n,).
        device
            Where to compute.
        """
        inputs, offset = _with_one(features).to(device), _offset(prior).to(device)
        truth = torch.from_numpy(codes).to(device)
        weights = torch.zeros(prior.shape[1], inputs.shape[1], device=device, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(offset + inputs @ weights.T, truth, reduction="sum")
            value = value + RIDGE / 2 * weights.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        return cls(weights.detach().cpu())

    def __call__(self, features: NDArray[np.float32], prior: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of the classes, (n, P)."""
        return (_offset(prior) + _with_one(features) @ self.weights.T).softmax(1).numpy()


def _with_one(features: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.c_[features, np.ones(len(features), features.dtype)])


def _offset(prior: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.log(np.maximum(prior, LEAST_PROBABILITY)))
