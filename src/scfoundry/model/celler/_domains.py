"""Batches taken out while learning: a normalisation for each (Chang et al. 2019), and gradients that are reversed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DomainNorm", "reversed_gradient"]

# As released.
EPS, MOMENTUM = 6.1e-5, 0.1


class DomainNorm(nn.Module):
    """Batch normalisation without scale and shift, by the statistics of the batch that a cell is of.

    Cells of batches that were not in training have the pooled statistics of all: the mean of means, and the mean of
    variances with the variance of means.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, n_batches: int, n_hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_batches, n_hidden))
        self.register_buffer("variance", torch.ones(n_batches, n_hidden))

    def forward(self, x: Tensor, batches: Tensor, present: Tensor | None = None) -> Tensor:
        """Normalise (B, L, D) by ``batches`` (B,); in training by the real positions of a batch's cells here."""
        if not self.training:
            pooled = self.variance.mean(0) + self.mean.var(0, correction=0)
            mean, variance = torch.vstack([self.mean, self.mean.mean(0)]), torch.vstack([self.variance, pooled])
            return (x - mean[batches][:, None]) * torch.rsqrt(variance[batches] + EPS)[:, None]
        normalised = torch.empty_like(x)
        for batch in batches.unique():
            own = batches == batch
            real = x[own].flatten(0, 1) if present is None else x[own][present[own]]
            mean, variance = real.mean(0), real.var(0, correction=0)
            normalised[own] = (x[own] - mean) * torch.rsqrt(variance + EPS)
            if batch == len(self.mean):  # not known
                continue
            with torch.no_grad():
                n = len(real)
                self.mean[batch] += MOMENTUM * (mean - self.mean[batch])
                self.variance[batch] += MOMENTUM * (variance * n / max(n - 1, 1) - self.variance[batch])
        return normalised


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def reversed_gradient(x: Tensor) -> Tensor:
    """The same values, from which the gradient comes back with another sign (Ganin and Lempitsky 2015)."""
    return _ReversedGradient.apply(x)
