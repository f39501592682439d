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

# Embeddings have length 1: scaled up, a weight vector of length 1 moves a logit as far as the texts do.
SCALE = 10.0
RIDGE = 1.0
LEAST_PROBABILITY = 1e-4
MAX_STEPS = 200


class TextPriorHead:
    r"""Multinomial logistic regression on embeddings, with the zero-shot probabilities as an offset.

    .. math:: \text{logit}_{ij} = \log p_{ij} + w_j \cdot z_i + b_j,\qquad
        \min_{w, b} \sum_i \text{CE}_i + \tfrac{1}{2} (\lVert w \rVert^2 + \lVert b \rVert^2)

    Without cells it is the zero-shot annotation; the more cells there are, the less the texts count.

    Parameters
    ----------
    weights
        Of P classes, (P, Z + 1), the last column being the bias.

    Examples
    --------
    >>> import numpy as np
    >>> latent, prior = np.eye(2, dtype="float32"), np.full((2, 2), 0.5, dtype="float32")
    >>> TextPriorHead.fit(latent, prior, np.array([1, 0]))(latent, prior).argmax(1)
    array([1, 0])
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    @classmethod
    def fit(
        cls,
        latent: NDArray[np.float32],
        prior: NDArray[np.float32],
        codes: NDArray[np.int64],
        *,
        device: torch.device | str = "cpu",
    ) -> TextPriorHead:
        """Fit to labelled cells.

        Parameters
        ----------
        latent
            Unit vectors, (n, Z).
        prior
            Zero-shot probabilities, (n, P).
        codes
            Classes, (n,).
        device
            Where to compute.
        """
        features, offset, truth = _features(latent).to(device), _offset(prior).to(device), torch.from_numpy(codes)
        truth = truth.to(device)
        weights = torch.zeros(prior.shape[1], features.shape[1], device=device, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(offset + features @ weights.T, truth, reduction="sum")
            value = value + RIDGE / 2 * weights.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        return cls(weights.detach().cpu())

    def __call__(self, latent: NDArray[np.float32], prior: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities of the classes, (n, P)."""
        return (_offset(prior) + _features(latent) @ self.weights.T).softmax(1).numpy()


def _features(latent: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.c_[SCALE * latent, np.ones(len(latent), latent.dtype)])


def _offset(prior: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.log(np.maximum(prior, LEAST_PROBABILITY)))
