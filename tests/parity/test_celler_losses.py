"""Losses of the long tail against recorded numbers of their equations, and what must hold of them for any numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scfoundry.nn.label_loss import LabelLoss
from scfoundry.nn.losses import (
    BalancedSoftmax,
    CrossEntropy,
    Focal,
    GInf,
    hard_cell_weights,
    hard_classes,
    log_counts,
    prior_correction,
    rarity,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
INPUTS = {"logits", "labels", "class_counts", "noise_std_normal", "sigma", "mu", "n_hard"}


class Recorded:
    """One case; whatever is compared is ticked off."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.arrays = dict(np.load(path))
        self.left = set(self.arrays) - INPUTS
        self.dtype = dtype
        self.logits = torch.from_numpy(self.arrays["logits"]).to(dtype).requires_grad_()
        self.targets = torch.from_numpy(self.arrays["labels"])
        self.counts = torch.from_numpy(self.arrays["class_counts"])
        self.draw = torch.from_numpy(self.arrays["noise_std_normal"]).to(dtype)
        self.n_hard = int(self.arrays["n_hard"])

    def ginf(self, **how: Any) -> GInf:
        return GInf(sigma=float(self.arrays["sigma"]), mu=float(self.arrays["mu"]), **how)

    def equals(self, name: str, found: Tensor) -> None:
        self.left.discard(name)
        expected = self.arrays[name]
        assert found.shape == expected.shape, name
        tolerance = TOLERANCE[self.dtype]
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=tolerance, rtol=tolerance, err_msg=name)

    def loss_equals(self, name: str, *losses: Callable[..., Tensor], among: Tensor | None = None) -> None:
        """Values of every example, their mean and its gradient, as far as they are recorded."""
        how = {"among": among, "draw": self.draw}
        values = sum(loss(self.logits, self.targets, self.counts, reduction="none", **how) for loss in losses)
        (slopes,) = torch.autograd.grad(values.mean(), self.logits)
        mean = sum(loss(self.logits, self.targets, self.counts, **how) for loss in losses)
        for suffix, found in {"": mean, "_per_sample": values, "_grad": slopes}.items():
            if name + suffix in self.arrays:
                self.equals(name + suffix, found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", "abc")
def test_every_recorded_number(parity_folder: Callable[[str], Path], case: str, dtype: torch.dtype) -> None:
    recorded = Recorded(parity_folder("celler") / f"loss_case_{case}.npz", dtype)
    logits, counts = recorded.logits, recorded.counts
    recorded.equals("delta", rarity(counts, logits))
    recorded.equals("delta_normalized", rarity(counts, logits, normalize=True))
    recorded.equals("log_prior", log_counts(counts, logits))
    recorded.equals("inflated_logits", recorded.ginf().inflated(logits, counts, recorded.draw))
    among = hard_classes(logits, recorded.targets, recorded.n_hard)
    recorded.equals("hard_set", among)

    recorded.loss_equals("ce_plain", CrossEntropy())
    recorded.loss_equals("balanced_softmax", BalancedSoftmax())
    recorded.loss_equals("ginf", recorded.ginf())
    recorded.loss_equals("ginf_noprior", recorded.ginf(prior=False))
    recorded.loss_equals("hdm", recorded.ginf(), among=among)
    recorded.loss_equals("hdm_noprior", recorded.ginf(prior=False), among=among)
    recorded.loss_equals("ginf_deltanorm", recorded.ginf(normalize_delta=True))
    recorded.loss_equals("ginf_absnoise_plus", recorded.ginf(noise="abs"))
    recorded.loss_equals("ginf_absnoise_minus", recorded.ginf(noise="abs", sign=-1))

    for name, prior in {"total": True, "total_noprior": False}.items():
        loss = LabelLoss(Drawn(recorded.ginf(prior=prior), recorded.draw), hard_mining=recorded.n_hard)
        total = loss(logits, recorded.targets, counts)
        recorded.equals(name, total)
        if f"{name}_grad" in recorded.arrays:
            recorded.equals(f"{name}_grad", torch.autograd.grad(total, logits)[0])
    assert not recorded.left, f"recorded, but not compared: {recorded.left}"


class Drawn:
    """A loss whose noise is known beforehand."""

    prior = True

    def __init__(self, loss: GInf, draw: Tensor) -> None:
        self.loss, self.noise = loss, draw

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.noise

    def __call__(self, *args: Any, **how: Any) -> Tensor:
        return self.loss(*args, **how)


# ---- what holds for any numbers ------------------------------------------------------------------------------------


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets, sizes of classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 9, generator=generator, dtype=torch.float64)
    targets = torch.randint(9, (40,), generator=generator)
    return logits, targets, torch.tensor([5000, 1000, 400, 200, 90, 40, 10, 3, 1])


def test_without_noise_it_is_a_known_loss(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, targets, _ = batch
    plain = F.cross_entropy(logits, targets)
    torch.testing.assert_close(GInf(prior=False, sigma=0.0)(*batch), plain, rtol=0, atol=0)
    torch.testing.assert_close(GInf(sigma=0.0)(*batch), BalancedSoftmax()(*batch), rtol=0, atol=0)
    torch.testing.assert_close(Focal(gamma=0.0)(*batch), plain)
    torch.testing.assert_close(LabelLoss()(*batch), plain, rtol=0, atol=0)


@pytest.mark.parametrize("sigma", [0.1, 3.0])
def test_classes_of_one_size_get_no_noise(batch: tuple[Tensor, Tensor, Tensor], sigma: float) -> None:
    logits, targets, counts = batch
    same = torch.full_like(counts, 7)
    for how in ({}, {"normalize_delta": True}, {"noise": "abs"}):
        torch.testing.assert_close(GInf(sigma=sigma, **how)(logits, targets, same), F.cross_entropy(logits, targets))


@pytest.mark.parametrize("loss", [CrossEntropy(), BalancedSoftmax(), Focal(), GInf(), GInf(prior=False, mu=0.3)])
@pytest.mark.parametrize("n_hard", [0, 3])
def test_constants_play_no_part(batch: tuple[Tensor, Tensor, Tensor], loss: Any, n_hard: int) -> None:
    logits, targets, counts = batch

    def value(z: Tensor, sizes: Tensor) -> Tensor:
        return LabelLoss(loss, n_hard)(z, targets, sizes, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(value(logits + 11.0, counts), value(logits, counts))
    torch.testing.assert_close(value(logits, counts * 13), value(logits, counts))


def test_noise_is_fresh_and_follows_the_generator(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    def values(seed: int) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        return [float(LabelLoss(GInf())(*batch, generator=generator)) for _ in range(2)]

    first, second = values(0)
    assert first != second
    assert values(0) == [first, second]
    assert values(1) != [first, second]


def test_signed_noise_penalises_uncertain_logits_of_rare_classes(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, _, counts = batch
    loss, generator = GInf(sigma=0.05), torch.Generator().manual_seed(0)
    # Noise and its negative, so that what is of first order cancels.
    draws = [loss.draw(logits, generator) for _ in range(500)]
    mean = torch.stack([loss(*batch, draw=sign * draw) for draw in draws for sign in (1, -1)]).mean()
    p = prior_correction(logits, counts)
    penalty = (p * (1 - p) * rarity(counts, logits) ** 2).sum(1).mean() * loss.sigma**2 / 2
    assert float(mean - BalancedSoftmax()(*batch)) == pytest.approx(float(penalty), rel=0.1)


@pytest.mark.parametrize("loss", [BalancedSoftmax(), Focal(), GInf()])
def test_low_precision_is_not_computed_in(batch: tuple[Tensor, Tensor, Tensor], loss: Any) -> None:
    logits, targets, counts = (part.bfloat16() if part.is_floating_point() else part for part in batch)
    draw = loss.draw(logits, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss(logits, targets, counts, draw=draw)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, loss(logits.float(), targets, counts, draw=draw))


def test_a_class_that_was_never_seen_counts_as_one(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, targets, counts = batch
    empty = counts.clone()
    empty[-1] = 0
    torch.testing.assert_close(BalancedSoftmax()(logits, targets, empty), BalancedSoftmax()(*batch))


def test_balanced_logits_give_back_the_shares_of_training() -> None:
    # One feature that says nothing: the best logits are all the same, and the correction gives the shares.
    counts = torch.tensor([80, 15, 5])
    targets = torch.arange(3).repeat_interleave(counts)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([bias], max_iter=200, tolerance_grad=1e-12)

    def step() -> Tensor:
        optimiser.zero_grad()
        value = BalancedSoftmax()(bias.expand(100, 3), targets, counts)
        value.backward()
        return value

    optimiser.step(step)
    torch.testing.assert_close(bias.softmax(0), torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(prior_correction(bias, counts), torch.tensor([0.8, 0.15, 0.05], dtype=torch.float64))


def test_confident_mistakes_count_more_but_not_without_bound() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.1, 0.0], [9.0, 0.0], [0.0, 9.0]])
    weights = hard_cell_weights(logits, torch.tensor([1, 1, 0, 1]), alpha=1.0)
    assert weights.mean() == pytest.approx(1.0)
    assert weights[2] == weights[3] < weights[1] < weights[0] <= 2 * weights[2]
    loss = LabelLoss(CrossEntropy(), "cells")
    targets, counts = torch.tensor([1, 1, 0, 1]), torch.tensor([1, 3])
    expected = (weights * F.cross_entropy(logits, targets, reduction="none")).mean()
    torch.testing.assert_close(loss(logits, targets, counts), expected)


@pytest.mark.parametrize(("hard_mining", "n_classes", "idle"), [(20, 21, True), (20, 22, False), (True, 9, False)])
def test_mining_over_all_classes_is_warned_of(
    logged: list[str], hard_mining: int, n_classes: int, *, idle: bool
) -> None:
    LabelLoss.of("ginf", hard_mining).warn_if_idle(n_classes, caller="test")
    assert any("only doubles the loss" in message for message in logged) == idle


@pytest.mark.parametrize(
    ("loss", "hard_mining", "said"),
    [("hinge", False, "loss is one of"), ("ginf", "rows", "hard_mining is True or False"), ("ginf", -1, "got -1")],
)
def test_what_there_is_not_is_refused(loss: Any, hard_mining: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LabelLoss.of(loss, hard_mining)


@pytest.mark.parametrize("how", [{"noise": "uniform"}, {"sign": 2}, {"sigma": -1.0}], ids=lambda how: next(iter(how)))
def test_settings_without_meaning_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        GInf(**how)
    with pytest.raises(ValueError, match="gamma"):
        Focal(gamma=-1.0)
