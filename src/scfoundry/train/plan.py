"""Training of any model: seeded steps, AdamW with warm-up, checkpoints that resume exactly."""

from __future__ import annotations

import math
from abc import abstractmethod
from contextlib import ExitStack, contextmanager, nullcontext
from inspect import signature
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from scvi.model._utils import use_distributed_sampler
from scvi.train import Trainer, TrainRunner
from torch.utils.data import DataLoader, DistributedSampler

from scfoundry._arguments import quoted
from scfoundry._settings import settings
from scfoundry.nn.checkpointed import CheckpointedLayer
from scfoundry.nn.processes import alone
from scfoundry.train.low_rank import RANK, with_lora
from scfoundry.train.manners import interruptible, quiet_lightning
from scfoundry.train.resuming import Resumable, frame_of, identity_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch import Tensor, nn

    from scfoundry.data.matrix.contexts import Context

__all__ = [
    "ContextDataModule",
    "ContextTrainingPlan",
    "Schedule",
    "Trainable",
    "TrainingPlan",
    "fit",
    "positions",
    "seeded",
    "training_only",
]

Schedule = Literal["constant", "linear", "cosine"]

VALIDATION_SEED = 1 << 32
# What parameters have no gradient depends on the weights of objectives: parallel training has to look for them.
LOOKING = {name: f"{name}_find_unused_parameters_true" for name in ("ddp", "ddp_spawn", "ddp_notebook")}
# What scvi-tools' runner takes beside the arguments of its trainer.
RUNNER_ARGUMENTS = {"devices", "ckpt_path"}

Module_co = TypeVar("Module_co", bound="nn.Module", covariant=True)


class Trainable(Protocol[Module_co]):
    """A model in the manner of scvi-tools, as far as its runner changes one."""

    history_: dict[str, pd.DataFrame] | None
    is_trained_: bool

    @property
    def module(self) -> Module_co:
        """What is trained."""

    def to_device(self, device: Any) -> None:
        """Move the module."""


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from torch's generators as if freshly seeded, and leave the caller's as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def computed_again(module: nn.Module) -> Iterator[None]:
    """Keep of every layer its input alone for the gradient (`CheckpointedLayer`); ValueError: if there is none."""
    layers = [layer for layer in module.modules() if isinstance(layer, CheckpointedLayer)]
    if not layers:
        msg = "gradient_checkpointing=True is of layers of attention, and this model has none: leave it out."
        raise ValueError(msg)
    before = [layer.gradient_checkpointing for layer in layers]
    for layer in layers:
        layer.gradient_checkpointing = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.gradient_checkpointing = was


@contextmanager
def training_only(module: nn.Module, parts: Iterable[str]) -> Iterator[None]:
    """Freeze everything but the named parts of a module."""
    learned = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(False)
    for part in parts:
        module.get_submodule(part).requires_grad_(True)
    try:
        yield
    finally:
        for parameter, learns in learned.items():
            parameter.requires_grad_(learns)


class TrainingPlan(pl.LightningModule):
    """One example (a context, a batch of cells) per step.

    Every random number of a step derives from the seed and the number of the step, the order of examples from the seed
    and the epoch: the same seed gives the same weights, also when training was interrupted in between. ``loss`` maps an
    example and the number of optimiser steps so far to ``loss`` and its parts; parts of the model in ``other_rates``
    learn at a rate of their own.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Any, int], dict[str, Tensor]],
        *,
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        schedule: Schedule,
        seed: int,
        other_rates: Sequence[tuple[nn.Module, float]] = (),
    ) -> None:
        super().__init__()
        self.module = module
        self.loss = loss
        self.lr, self.weight_decay, self.warmup_steps, self.schedule = lr, weight_decay, warmup_steps, schedule
        self.seed = seed
        self.other_rates = other_rates

    @abstractmethod
    def example(self, position: int) -> Any:
        """Example at a position of this epoch's order."""

    @abstractmethod
    def held_out(self, number: int) -> Any:
        """Example of a number for validation."""

    def training_step(self, position: int, batch_index: int) -> Tensor:
        """Loss of one example."""
        # Not the number of optimiser steps: where gradients accumulate, several examples share one.
        step = self.current_epoch * int(self.trainer.num_training_batches) + batch_index
        with seeded(self.seed + step * self.trainer.world_size + self.global_rank, self.device):
            losses = self.loss(self.example(position), self.global_step)
        for name, value in losses.items():
            how: dict[str, Any] = {"batch_size": 1, "prog_bar": name == "loss", "sync_dist": True}
            self.log(f"{name}_train", value, on_step=False, on_epoch=True, **how)
        return losses["loss"]

    def validation_step(self, number: int, batch_index: int) -> None:
        """Loss of one held-out example, with the same masks at every epoch."""
        with seeded(self.seed + VALIDATION_SEED + batch_index, self.device):
            losses = self.loss(self.held_out(number), self.global_step)
        for name, value in losses.items():
            self.log(f"{name}_validation", value, on_epoch=True, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with the learning rate set at every step."""
        groups: list[dict[str, Any]]
        groups = [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr": rate} for part, rate in self.other_rates
        ]
        apart = {id(p) for group in groups for p in group["params"]}
        others = [p for p in self.module.parameters() if p.requires_grad and id(p) not in apart]
        groups.append({"params": others, "lr": self.lr})
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)
        n_steps = max(1, int(self.trainer.estimated_stepping_batches))

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
            progress = min(1.0, max(0, step - self.warmup_steps) / max(1, n_steps - self.warmup_steps))
            falling = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
            return warm * falling[self.schedule]

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ContextTrainingPlan(TrainingPlan):
    """One context per step; an epoch visits the contexts numbered in ``visits``. See `TrainingPlan`."""

    def __init__(
        self,
        module: nn.Module,
        contexts: Sequence[Context],
        visits: Sequence[int],
        loss: Callable[[Context, int], dict[str, Tensor]],
        **how: Any,
    ) -> None:
        super().__init__(module, loss, **how)
        self.contexts, self.visits = contexts, visits

    def example(self, position: int) -> Context:
        """Context at a position of this epoch's order."""
        order = np.random.default_rng([self.seed, self.current_epoch]).permutation(len(self.visits))
        return self.contexts[self.visits[order[position]]]

    def held_out(self, number: int) -> Context:
        """Context of a number."""
        return self.contexts[number]


class ContextDataModule(pl.LightningDataModule):
    """Contexts to train on and to validate on, by their numbers.

    A context of more than ``cells_per_step`` cells comes several times per epoch, so that an epoch sees about every
    cell.
    """

    def __init__(
        self, contexts: Sequence[Context], train: Sequence[int], held_out: Sequence[int], *, cells_per_step: int
    ) -> None:
        super().__init__()
        self.visits = np.repeat(train, [math.ceil(len(contexts[i].rows) / cells_per_step) for i in train]).tolist()
        self.held_out = held_out
        self.train_idx, self.val_idx = (
            np.sort(np.concatenate([np.array([], dtype=np.int64), *(contexts[i].rows for i in numbers)]))
            for numbers in (train, held_out)
        )

    @classmethod
    def split(cls, contexts: Sequence[Context], *, cells_per_step: int, validation_size: float, seed: int) -> Self:
        """Hold out a share of whole contexts, never of their cells; none if there is only one."""
        n_held_out = min(round(validation_size * len(contexts)), len(contexts) - 1)
        order = np.random.default_rng(seed).permutation(len(contexts))
        train, held_out = (np.sort(part).tolist() for part in (order[n_held_out:], order[:n_held_out]))
        return cls(contexts, train, held_out, cells_per_step=cells_per_step)

    def train_dataloader(self) -> DataLoader:
        """Positions in the order of an epoch, which the training plan draws."""
        return positions(range(len(self.visits)), self.trainer)

    def val_dataloader(self) -> DataLoader | list:
        """Numbers of the held-out contexts."""
        return positions(self.held_out, self.trainer) if self.held_out else []


def positions(numbers: Sequence[int], trainer: pl.Trainer | None) -> DataLoader:
    """A loader of plain numbers: what they stand for is read by the step itself.

    Of W processes the one of rank r gets every W-th number from the r-th on; the first ones come again at the end, so
    that all get as many.
    """
    data: Any = numbers
    by_rank: Any = None
    if trainer is not None and trainer.world_size > 1:
        # Lightning's own sampler would shuffle them, alike in all epochs.
        by_rank = DistributedSampler(data, trainer.world_size, trainer.global_rank, shuffle=False)
    # A loader without a generator of its own draws from torch's global one.
    return DataLoader(data, batch_size=None, sampler=by_rank, generator=torch.Generator())


def fit(
    model: Trainable,
    plan: TrainingPlan,
    data: pl.LightningDataModule,
    *,
    max_epochs: int,
    checkpoint_dir: str | Path | None = None,
    called_with: Mapping[str, Any] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    gradient_checkpointing: bool = False,
    lora: bool | int = False,
    **trainer_kwargs: Any,
) -> None:
    """Run a training through scvi-tools, from its last checkpoint in ``checkpoint_dir`` if there is one.

    After every epoch a checkpoint is left there. ``called_with``: arguments of the user's function, with which a
    checkpoint must have been made. ``callbacks`` run beside those in ``trainer_kwargs``, which are arguments of
    scvi-tools' trainer (``accelerator``, ``devices``, ...). ``gradient_checkpointing``: keep of every layer its input
    alone for the gradient (`computed_again`). ``lora``: let attention learn by matrices of low rank alone
    (`with_lora`), of this rank, or of 8 if `True`.
    """
    with ExitStack() as during:
        if gradient_checkpointing:
            during.enter_context(computed_again(plan.module))
        if lora:
            # Matrices begin at random.
            with seeded(plan.seed, torch.device("cpu")):
                during.enter_context(with_lora(plan.module, RANK if lora is True else lora))
        run(model, plan, data, max_epochs, checkpoint_dir, called_with, callbacks, **trainer_kwargs)


def run(
    model: Trainable,
    plan: TrainingPlan,
    data: pl.LightningDataModule,
    max_epochs: int,
    checkpoint_dir: str | Path | None,
    called_with: Mapping[str, Any] | None,
    callbacks: Sequence[pl.Callback],
    **trainer_kwargs: Any,
) -> None:
    """Run a training; see `fit`."""
    known = signature(Trainer).parameters.keys() | signature(pl.Trainer).parameters.keys() | RUNNER_ARGUMENTS
    if "datamodule" in trainer_kwargs:
        name = type(model).__name__
        msg = (
            "train() has no argument 'datamodule': it reads registered cells from the file or store where they lie, in "
            f'blocks that are mixed. {name}.setup_anndata(anndata.experimental.read_lazy("atlas.zarr"), ...).'
        )
        raise TypeError(msg)
    if unknown := [name for name in trainer_kwargs if name not in known]:
        msg = f"train() has no argument {quoted(unknown)}, nor has the trainer: {', '.join(sorted(known))}."
        raise TypeError(msg)
    if data.val_dataloader():
        trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
    trainer_kwargs.setdefault("enable_progress_bar", settings.show_progress)
    trainer_kwargs.setdefault("log_every_n_steps", 1)
    trainer_kwargs["callbacks"] = [*trainer_kwargs.get("callbacks", []), *callbacks]
    if "strategy" in trainer_kwargs:
        trainer_kwargs["strategy"] = LOOKING.get(trainer_kwargs["strategy"], trainer_kwargs["strategy"])
    resumable = None
    if checkpoint_dir is not None:
        past = {name: frame.iloc[:, 0].astype(float).tolist() for name, frame in (model.history_ or {}).items()}
        identity = identity_of(model, plan, data, {**(called_with or {}), **trainer_kwargs}, max_epochs=max_epochs)
        resumable = Resumable(checkpoint_dir, past, identity)
        trainer_kwargs["callbacks"].append(resumable)
        trainer_kwargs |= {"ckpt_path": path} if (path := resumable.found(max_epochs)) else {}
        try:
            resumable.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"checkpoint_dir={str(checkpoint_dir)!r} cannot be made: {error}. Pass a folder that can, or None."
            raise ValueError(msg) from error
    plan.train()
    # scvi-tools would only lengthen losses that the history already has; a second stage has others.
    earlier, model.is_trained_ = model.history_ or {}, False
    # With several processes scvi-tools hands the history on in a file.
    with quiet_lightning(), interruptible(), TemporaryDirectory() as place:
        if use_distributed_sampler(trainer_kwargs.get("strategy")):
            trainer_kwargs.setdefault("log_save_dir", place)
        try:
            runner = TrainRunner(model, training_plan=plan, data_splitter=data, max_epochs=max_epochs, **trainer_kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:
            msg = f"The trainer refuses an argument: {error} For a CPU: accelerator='cpu', devices=1."
            raise ValueError(msg) from error
        with alone() if runner.trainer.world_size == 1 else nullcontext():
            try:
                runner()
            except (RuntimeError, ValueError) as error:  # a step may stumble over what is no number any more
                _require_finite(model, plan, error)
                raise
        data.trainer = None  # of whose processes loaders are else
    _require_finite(model, plan)
    new = model.history_ or {}
    if resumable is not None:
        resumable.recall()
        earlier, new = {name: frame_of(name, values) for name, values in resumable.past.items()}, resumable.history
    model.history_ = earlier | {
        name: pd.concat([earlier[name], frame], ignore_index=True).rename_axis("epoch") if name in earlier else frame
        for name, frame in new.items()
    }


def _require_finite(model: Any, plan: Any, cause: Exception | None = None) -> None:
    """ValueError: if the training diverged, which may have been the ``cause`` of another error."""
    if not all(parameter.isfinite().all() for parameter in plan.module.parameters()):
        model.is_trained_ = False
        msg = (
            f"The training diverged: weights are NaN or infinite. Start again with fresh weights and a smaller lr than "
            f"{plan.lr:g}: train(lr={plan.lr / 10:g})."
        )
        raise ValueError(msg) from cause
