from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scfoundry._device import Compute
from scfoundry.data.matrix.contexts import Context
from scfoundry.train.contexts import fine_tune

CONTEXTS = [Context("a", np.arange(4)), Context("b", np.arange(4, 7))]
CPU = Compute(torch.device("cpu"))


class Line:
    """As much of a model as a training changes: the slope of a line, and a part that is left alone."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: Any = nn.ModuleDict({"slope": nn.Linear(1, 1, bias=False), "frozen": nn.Linear(1, 1)})
        self.history_, self.is_trained_ = None, False

    def to_device(self, device: Any) -> None:
        self.module.to(device)


def train(model: Line, head: nn.Module | None = None, **how: Any) -> list[int]:
    """Train on y = 3x; the number of cells of the context at every step."""
    shown = []

    def loss(context: Context, step: int) -> dict[str, torch.Tensor]:
        if not model.module.training:
            return {"loss": torch.tensor(float(len(shown)))}
        shown.append(len(context.rows))
        x = torch.rand(8, 1)
        found = model.module["slope"](x)
        return {"loss": ((found if head is None else head(found)) - 3 * x).square().mean()}

    defaults = {"parts": ["slope"], "cells_per_step": 2, "max_epochs": 40, "lr": 0.1, "seed": 0, "compute": CPU}
    fine_tune(model, CONTEXTS, loss, head=head, **(defaults | how))
    return shown


def test_chosen_parts_learn_and_the_others_stay() -> None:
    model = Line()
    before = [p.clone() for p in model.module["frozen"].parameters()]
    shown = train(model)
    assert model.module["slope"].weight.item() == pytest.approx(3, abs=0.05)
    for old, new in zip(before, model.module["frozen"].parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    # Contexts of four and three cells are two steps each, at two cells a step.
    assert len(shown) == 40 * 4
    assert not model.module.training


def test_a_head_learns_with_the_model() -> None:
    model, head = Line(), nn.Linear(1, 1)
    train(model, head)
    assert (head.weight * model.module["slope"].weight).item() == pytest.approx(3, abs=0.1)
    assert not head.training


def test_model_and_head_return_to_the_weights_that_were_best_on_what_is_held_out() -> None:
    """The held-out loss rises from the first epoch on."""
    weights = []
    for how in ({"max_epochs": 1}, {"patience": 2}):
        model, head = Line(), nn.Linear(1, 1)
        shown = train(model, head, **how)
        weights.append([model.module["slope"].weight, head.weight, head.bias])
    assert len(shown) < 40
    for first, best in zip(*weights, strict=True):
        torch.testing.assert_close(best, first, rtol=0, atol=0)
