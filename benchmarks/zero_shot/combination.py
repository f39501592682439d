"""Weights of the terms of a score, fitted to studies that the terms were not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

from scfoundry.model.langcell._scorer import combine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Left", "fit_weights"]

PRIOR = torch.tensor([0.5, 1.0, 0.7, -1.0])
STRENGTH = 0.01
MAX_CELLS = 400


class Left(NamedTuple):
    """Terms of one task of a left-out study.

    Attributes
    ----------
    fold
        The study.
    terms
        Terms of the logits, (3, n, P).
    seen
        Labels that claim a known type, (P,).
    truth
        Right label, (n,).
    """

    fold: str
    terms: Tensor
    seen: Tensor
    truth: Tensor


def fit_weights(tasks: Sequence[Left]) -> Tensor:
    """Weights that make the right label most probable, every study weighing the same; shrunk to a prior."""
    weights = PRIOR.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")
    generator = torch.Generator().manual_seed(0)
    samples = []
    for task in tasks:
        cells = torch.randperm(len(task.truth), generator=generator)[:MAX_CELLS]
        samples.append(task._replace(terms=task.terms[:, cells], truth=task.truth[cells]))
    per_fold = {fold: sum(task.fold == fold for task in tasks) for fold in {task.fold for task in tasks}}

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = STRENGTH * (weights - PRIOR).square().sum()
        for task in samples:
            of_task = F.cross_entropy(combine(task.terms, task.seen, weights), task.truth)
            loss = loss + of_task / per_fold[task.fold] / len(per_fold)
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights.detach()
