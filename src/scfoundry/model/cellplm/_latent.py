"""The latent distributions of CellPLM (section 3.3 of the paper; released forms, parameter for parameter)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.cellplm._config import CellPLMConfig

__all__ = ["build_latent"]

N_POSTERIOR_HIDDEN = 512
KL_FLOOR = 1.0


class MixtureSample(NamedTuple):
    """One draw of the mixture's posterior for n cells."""

    categorical: Tensor  # y, (n, K)
    probabilities: Tensor  # q(y | x), (n, K)
    mean: Tensor  # (n, Z)
    variance: Tensor  # (n, Z)
    z: Tensor  # (n, Z)
    prior_mean: Tensor  # (n, Z)
    prior_variance: Tensor  # (n, Z)


class GaussianSample(NamedTuple):
    """One draw of the Gaussian posterior for n cells, each (n, Z)."""

    mean: Tensor
    variance: Tensor
    z: Tensor


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise from uniform draws, as released."""
    return -torch.log(-torch.log(uniform + 1e-20) + 1e-20)


class MixtureLatent(nn.Module):
    """Gaussian mixture: q(y | x), then q(z | x, y), with prior p(z | y).

    ``n_clusters``: number of components K. ``floor``: below this value either term is a constant without gradient.
    ``prior_weight``, ``categorical_weight``: weights of the conditional-prior term and of the categorical term.
    """

    def __init__(
        self,
        n_hidden: int,
        n_latent: int,
        n_clusters: int,
        *,
        floor: float,
        prior_weight: float,
        categorical_weight: float,
    ) -> None:
        super().__init__()
        self.logits = nn.Linear(n_hidden, n_clusters)
        self.hidden = nn.Linear(n_hidden + n_clusters, N_POSTERIOR_HIDDEN)
        self.mean = nn.Linear(N_POSTERIOR_HIDDEN, n_latent)
        self.variance = nn.Linear(N_POSTERIOR_HIDDEN, n_latent)
        self.prior_mean = nn.Linear(n_clusters, n_latent)
        self.prior_variance = nn.Linear(n_clusters, n_latent)
        self.floor, self.prior_weight, self.categorical_weight = floor, prior_weight, categorical_weight

    def posterior(self, u: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(z | x, y), for u (n, D) and y (n, K)."""
        t = self.hidden(torch.cat([u, y], dim=-1)).relu()
        return self.mean(t), F.softplus(self.variance(t))

    def prior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of p(z | y)."""
        return self.prior_mean(y), F.softplus(self.prior_variance(y))

    def draw_component(self, u: Tensor, uniform: Tensor | None, *, soft: bool) -> Tensor:
        """Gumbel-softmax draw of y at temperature 1; the most likely component where ``uniform`` is None."""
        scores = self.logits(u)
        if uniform is not None:
            scores = scores + gumbel(uniform)
        if soft:
            return scores.softmax(-1)
        return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(u.dtype)

    def embedding(self, u: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Posterior mean under one component: the cell embedding, (n, Z)."""
        return self.posterior(u, self.draw_component(u, uniform, soft=False))[0]

    def sample(
        self, u: Tensor, *, uniform: Tensor | None = None, noise: Tensor | None = None, soft: bool = True
    ) -> MixtureSample:
        """Draw component and latent; fresh noise where none is given."""
        logits = self.logits(u)
        uniform = torch.rand_like(logits) if uniform is None else uniform
        y = self.draw_component(u, uniform, soft=soft)
        mean, variance = self.posterior(u, y)
        noise = torch.randn_like(mean) if noise is None else noise
        z = mean + torch.sqrt(variance + 1e-10) * noise
        return MixtureSample(y, logits.softmax(-1), mean, variance, z, *self.prior(y))

    def terms(self, sample: MixtureSample) -> tuple[Tensor, Tensor]:
        """Conditional-prior term R (one sample, no closed form) and categorical term C, before floor and weight."""
        posterior = log_normal(sample.z, sample.mean, sample.variance)
        prior = log_normal(sample.z, sample.prior_mean, sample.prior_variance)
        p = sample.probabilities
        entropy = -torch.special.xlogy(p, p).sum(-1)
        return (posterior - prior).mean(), (math.log(p.shape[-1]) - entropy).mean()

    def loss(self, sample: MixtureSample, step: int) -> Tensor:
        """Weighted terms with their floor; the same at every step."""
        prior, categorical = self.terms(sample)
        return self.prior_weight * prior.clamp(min=self.floor) + self.categorical_weight * categorical.clamp(
            min=self.floor
        )


def log_normal(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Log density of N(mean, variance) at z, summed over Z, (n,); 1e-8 is added to the variance, as released."""
    variance = variance + 1e-8
    return -0.5 * (math.log(2 * math.pi) + variance.log() + (z - mean).square() / variance).sum(-1)


class GaussianLatent(nn.Module):
    """One Gaussian per cell with a standard normal prior."""

    def __init__(self, n_hidden: int, n_latent: int, *, warmup_steps: int) -> None:
        super().__init__()
        self.mean = nn.Linear(n_hidden, n_latent)
        self.log_variance = nn.Linear(n_hidden, n_latent)
        self.warmup_steps = warmup_steps

    def embedding(self, u: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Posterior mean: the cell embedding, (n, Z)."""
        return self.mean(u)

    def sample(self, u: Tensor, *, noise: Tensor | None = None) -> GaussianSample:
        """Draw the latent; fresh noise where none is given."""
        mean = self.mean(u)
        variance = self.log_variance(u).clamp(-5, 5).exp() + 1e-4
        noise = torch.randn_like(mean) if noise is None else noise
        return GaussianSample(mean, variance, mean + variance.sqrt() * noise)

    def kl(self, sample: GaussianSample) -> Tensor:
        """KL(q || N(0, I)), summed over Z, mean over cells."""
        mean, variance, _ = sample
        return 0.5 * (mean.square() + variance - 1 - variance.log()).sum(-1).mean()

    def loss(self, sample: GaussianSample, step: int) -> Tensor:
        """KL, its weight growing with the step; 0 while the weighted value is below 1."""
        weighted = min(step / self.warmup_steps, 1.0) * self.kl(sample)
        return torch.where(weighted < KL_FLOOR, 0.0, weighted)


class LinearLatent(nn.Module):
    """A linear layer without a distribution, as used when fine-tuning for annotation."""

    def __init__(self, n_hidden: int, n_latent: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_hidden, n_latent)

    def embedding(self, u: Tensor, uniform: Tensor | None = None) -> Tensor:
        """The cell embedding, (n, Z)."""
        return self.linear(u)

    def sample(self, u: Tensor) -> GaussianSample:
        """The latent itself, without noise."""
        z = self.linear(u)
        return GaussianSample(z, torch.zeros_like(z), z)

    def loss(self, sample: GaussianSample, step: int) -> Tensor:
        """No latent loss."""
        return sample.z.new_zeros(())


def build_latent(config: CellPLMConfig) -> MixtureLatent | GaussianLatent | LinearLatent:
    """Build the latent that the configuration names."""
    if config.latent == "gmvae":
        return MixtureLatent(
            config.n_hidden,
            config.n_latent,
            config.n_clusters,
            floor=config.latent_floor,
            prior_weight=config.prior_weight,
            categorical_weight=config.categorical_weight,
        )
    if config.latent == "vae":
        return GaussianLatent(config.n_hidden, config.n_latent, warmup_steps=config.kl_warmup_steps)
    return LinearLatent(config.n_hidden, config.n_latent)
