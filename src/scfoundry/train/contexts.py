"""Fine-tuning: chosen parts of a model, whole contexts, the best weights by what is held out within them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from scfoundry.train.cells import BestWeights
from scfoundry.train.plan import ContextDataModule, ContextTrainingPlan, Schedule, fit, training_only

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.train.plan import Trainable

__all__ = ["fine_tune"]

# Published for every fine-tuned task.
MAX_GRADIENT_NORM = 2.0


def fine_tune(
    model: Trainable,
    contexts: Sequence[Context],
    loss: Callable[[Context, int], dict[str, Tensor]],
    *,
    parts: Sequence[str],
    head: nn.Module | None = None,
    cells_per_step: int,
    max_epochs: int,
    lr: float,
    part_lrs: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    schedule: Schedule = "constant",
    patience: int | None = None,
    validate_on: Sequence[int] | None = None,
    seed: int,
    compute: Compute,
    lora: bool = False,
) -> None:
    """Train parts of a model (``"layers"``, ``"decoder"``) on whole contexts, and freeze all others.

    ``loss``: maps a context and the number of optimiser steps so far to ``loss`` and its parts, named tensors. It reads
    the cells itself and moves them to ``model.module.device``. While ``model.module.training`` is false it gives the
    loss of what is held out. Random numbers come from torch's default generators, which are seeded for every step.
    ``head``: what a task sets on top of the model and trains with it, at ``lr``; its weights change in place. ``lora``:
    let attention learn by matrices of low rank alone, see `fit`.
    ``cells_per_step``: most cells of a context that a step sees; how many epochs mean how many steps. ``part_lrs``:
    learning rates of submodules that differ. ``validate_on``: numbers of the contexts whose validation loss counts, all
    if `None`.
    """
    trained = model.module if head is None else nn.ModuleList([model.module, head])
    # Every epoch trains on all contexts and validates on them: what is held out are cells or entries within.
    numbers = range(len(contexts))
    validated = [] if patience is None else numbers if validate_on is None else validate_on
    data = ContextDataModule(contexts, numbers, validated, cells_per_step=cells_per_step)
    callbacks = [] if patience is None else [BestWeights(trained, patience)]
    with training_only(model.module, parts):
        plan = ContextTrainingPlan(
            trained,
            contexts,
            data.visits,
            loss,
            lr=lr,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            schedule=schedule,
            seed=seed,
            other_rates=[(model.module.get_submodule(part), rate) for part, rate in (part_lrs or {}).items()],
        )
        fit(
            model,
            plan,
            data,
            max_epochs=max_epochs,
            callbacks=callbacks,
            gradient_clip_val=MAX_GRADIENT_NORM,
            lora=lora,
            **compute.trainer_arguments(),
        )
    trained.eval()
