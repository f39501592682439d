"""Losses of classes of very unequal size, as functions of logits (Zhao et al. 2025; Ren et al. 2020).

Every loss takes logits (B, C), the number of each example's class (B,), and how many training examples a class has,
(C,). All compute in float32 at least, also under autocast. Evaluation needs none of them: predictions, validation and
early stopping use the plain logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BalancedSoftmax",
    "ClassLoss",
    "CrossEntropy",
    "Focal",
    "GInf",
    "Reduction",
    "default_n_hard",
    "hard_cell_weights",
    "hard_classes",
    "log_counts",
    "prior_correction",
    "rarity",
    "reduced",
]

Reduction = Literal["mean", "sum", "none"]


class ClassLoss(Protocol):
    """Loss of logits; with ``among`` (B, C) bool over these classes alone, the target among them."""

    @property
    def prior(self) -> bool:
        """Whether the sizes of classes enter, so that the logits are learned as if all were of one size."""

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Standard normal noise for logits (B, C), or `None` if none is needed."""

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor,
        class_counts: Tensor,
        *,
        among: Tensor | None = None,
        draw: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """The loss, with the noise of ``draw``."""


class _Noiseless:
    """What losses without noise share."""

    prior: ClassVar[bool] = False

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> None:
        """No noise."""


@dataclass(frozen=True)
class CrossEntropy(_Noiseless):
    r"""The usual one, :math:`-\log \operatorname{softmax}(z_i)_{y_i}`."""

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor,
        class_counts: Tensor,
        *,
        among: Tensor | None = None,
        draw: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """The loss; sizes of classes play no part."""
        return F.cross_entropy(_only(_full(logits), among), targets, reduction=reduction)


@dataclass(frozen=True)
class BalancedSoftmax(_Noiseless):
    r"""Cross-entropy under the sizes of classes (Ren et al. 2020).

    .. math:: -\log \frac{N_{y_i} e^{z_{i y_i}}}{\sum_j N_j e^{z_{ij}}}

    The sizes are explained by :math:`\log N_j`, so that :math:`\operatorname{softmax}(z)` is of classes of one size.
    """

    prior: ClassVar[bool] = True

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor,
        class_counts: Tensor,
        *,
        among: Tensor | None = None,
        draw: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """The loss."""
        weighted = _full(logits) + log_counts(class_counts, logits)
        return F.cross_entropy(_only(weighted, among), targets, reduction=reduction)


@dataclass(frozen=True)
class Focal(_Noiseless):
    r"""Cross-entropy that what is easy hardly enters (Lin et al. 2017), of classes that exclude each other.

    .. math:: -(1 - p_{i y_i})^\gamma \log p_{i y_i}, \qquad p_i = \operatorname{softmax}(z_i)

    With :math:`\gamma = 0` it is cross-entropy.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.gamma < 0:
            msg = f"gamma is an exponent of at least 0; got {self.gamma}. As published: Focal(gamma=2.0)."
            raise ValueError(msg)

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor,
        class_counts: Tensor,
        *,
        among: Tensor | None = None,
        draw: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """The loss; sizes of classes play no part."""
        surprise = F.cross_entropy(_only(_full(logits), among), targets, reduction="none")
        # An exponent below 1 has no slope at 0.
        missed = (-torch.expm1(-surprise)).clamp_min(torch.finfo(surprise.dtype).tiny)
        return reduced(missed**self.gamma * surprise, reduction)


@dataclass(frozen=True)
class GInf:
    r"""Gaussian inflation: noise on logits, the more the rarer the class (Zhao et al. 2025, eq. 4-7).

    .. math::

        \Delta_j = \log N_{\max} - \log N_j, \qquad
        \hat z_{ij} = z_{ij} + s \lambda \Delta_j I_{ij}, \quad I_{ij} \sim \mathcal{N}(\mu, \sigma^2), \qquad
        L_i = -\log \frac{N_{y_i} e^{\hat z_{i y_i}}}{\sum_j N_j e^{\hat z_{ij}}}

    Signed noise around 0 favours no class: to second order it adds
    :math:`\tfrac{1}{2} \lambda^2 \sigma^2 \sum_j p_{ij} (1 - p_{ij}) \Delta_j^2`, a penalty on uncertain logits of rare
    classes. What favours them is the prior. :math:`\mu > 0` makes rare classes easier to satisfy in training and so
    lower afterwards, :math:`\mu < 0` is like a margin.

    Attributes
    ----------
    prior
        Whether :math:`N_j` stand in the softmax, as in the paper; the published code leaves them out.
    sigma, mu, amplitude
        :math:`\sigma, \mu, \lambda`.
    normalize_delta
        Divide :math:`\Delta` by its largest value, so that ``sigma`` means the same for every data set.
    noise
        ``"abs"``: the absolute value of the noise without ``mu``, as Gaussian clouded logits take it (Li et al. 2022).
    sign
        :math:`s`, 1 or -1.
    """

    prior: bool = True
    sigma: float = 0.1
    mu: float = 0.0
    amplitude: float = 1.0
    normalize_delta: bool = False
    noise: Literal["signed", "abs"] = "signed"
    sign: Literal[1, -1] = 1

    def __post_init__(self) -> None:
        if self.noise not in ("signed", "abs"):
            msg = f'noise is "signed" or "abs"; got {self.noise!r}. As in the paper: GInf(noise="signed").'
            raise ValueError(msg)
        if self.sign not in (1, -1) or self.sigma < 0:
            msg = f"sign is 1 or -1 and sigma at least 0; got {self.sign} and {self.sigma}. As in the paper: GInf()."
            raise ValueError(msg)

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal noise, (B, C), of the device and at least the precision of the logits."""
        full = _full(logits)
        return torch.randn(full.shape, dtype=full.dtype, device=full.device, generator=generator)

    def inflated(self, logits: Tensor, class_counts: Tensor, draw: Tensor) -> Tensor:
        r"""Logits with noise, :math:`\hat z`, (B, C)."""
        noise = (self.sigma * draw).abs() if self.noise == "abs" else self.mu + self.sigma * draw
        delta = rarity(class_counts, logits, normalize=self.normalize_delta)
        return _full(logits) + self.sign * self.amplitude * delta * noise.detach()

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor,
        class_counts: Tensor,
        *,
        among: Tensor | None = None,
        draw: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """The loss, with the noise of ``draw``, or fresh noise."""
        noisy = self.inflated(logits, class_counts, self.draw(logits) if draw is None else draw)
        if self.prior:
            noisy = noisy + log_counts(class_counts, logits)
        return F.cross_entropy(_only(noisy, among), targets, reduction=reduction)


# ---- hard mining ---------------------------------------------------------------------------------------------------


def hard_classes(logits: Tensor, targets: Tensor, n: int) -> Tensor:
    r"""The target of every example and the ``n`` other classes it is most confused with, (B, C) bool.

    .. math:: \Omega_i = \operatorname{Top}_n \{ z_{ij} : j \ne y_i \} \cup \{ y_i \}

    (Zhao et al. 2025, eq. 8). A loss over :math:`\Omega_i` alone, added to the loss over all classes with the same
    noise, is hard data mining (eq. 9-10). The logits are those without noise and prior; no gradient passes.
    """
    target = F.one_hot(targets, logits.shape[1]).bool()
    others = logits.detach().masked_fill(target, -torch.inf)
    hardest = others.topk(min(n, logits.shape[1] - 1), dim=1).indices
    return target.scatter(1, hardest, value=True)


def default_n_hard(n_classes: int) -> int:
    """As many other classes as hard mining looks at: a third of all, 20 at most, the number of the paper."""
    return min(20, math.ceil(n_classes / 3))


def hard_cell_weights(logits: Tensor, targets: Tensor, *, alpha: float = 1.0) -> Tensor:
    r"""Weights of examples that are confidently taken for another class, (B,), of mean 1.

    .. math:: w_i \propto 1 + \alpha \, [\arg\max_j z_{ij} \ne y_i] \, \max_j \operatorname{softmax}(z_i)_j

    Drawing examples by these weights trains on them more often. An example counts at most :math:`1 + \alpha` times, so
    that wrong labels cannot take over.
    """
    confidence, guess = _full(logits.detach()).softmax(1).max(1)
    weights = 1 + alpha * (guess != targets) * confidence
    return weights / weights.mean()


# ---- sizes of classes ----------------------------------------------------------------------------------------------


def log_counts(class_counts: Tensor, like: Tensor) -> Tensor:
    r""":math:`\log N_j`, (C,), of the device and at least the precision of ``like``; an empty class counts as one."""
    return class_counts.to(device=like.device, dtype=_full(like).dtype).clamp_min(1).log()


def rarity(class_counts: Tensor, like: Tensor, *, normalize: bool = False) -> Tensor:
    r""":math:`\Delta_j = \log N_{\max} - \log N_j`, (C,), or that over its largest value."""
    counts = log_counts(class_counts, like)
    delta = counts.max() - counts
    return delta / delta.max().clamp_min(torch.finfo(delta.dtype).tiny) if normalize else delta


def prior_correction(logits: Tensor, class_counts: Tensor) -> Tensor:
    r"""Probabilities where classes are as frequent as in training, of logits learned with their sizes in the loss.

    .. math:: \operatorname{softmax}(z + \log N)

    :math:`\operatorname{softmax}(z)` itself is for classes of one size.
    """
    return (_full(logits) + log_counts(class_counts, logits)).softmax(-1)


def reduced(values: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum of the losses of examples, or all of them, (B,)."""
    return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values


def _full(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _only(logits: Tensor, among: Tensor | None) -> Tensor:
    return logits if among is None else logits.masked_fill(~among, -torch.inf)
