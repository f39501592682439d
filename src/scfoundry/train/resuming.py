"""Checkpoints that a training goes on from: its own and no other's."""

from __future__ import annotations

import hashlib
import json
import math
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
from scvi.train import Trainer

from scfoundry._settings import logger
from scfoundry.nn.checkpoint import read_torch_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Resumable", "frame_of", "identity_of"]

# Keys of a checkpoint.
HISTORY = "history"
IDENTITY = "identity"
# Of an identity.
MODEL = "model"
# Arguments of the trainer that change the weights, unlike where and how fast it works and what it shows.
CHANGING = {
    "accumulate_grad_batches",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "precision",
}
NOT_CHANGING = {"self", "checkpoint_dir", "max_epochs", "trainer_kwargs", "devices", "callbacks"}
NOT_CHANGING |= (signature(Trainer).parameters.keys() | signature(pl.Trainer).parameters.keys()) - CHANGING
# Characters of a value as a message shows it.
LONGEST = 60


class Resumable(pl.Callback):
    """Write the state of the training after every epoch, so that the same call can go on from it, with its history.

    ``past``: losses of earlier trainings of the model, by name; after resuming, those that the checkpoint knows.
    ``identity``: what has to be alike for a checkpoint to be gone on from.
    """

    def __init__(self, folder: str | Path, past: dict[str, list[float]], identity: dict[str, Any]) -> None:
        self.path = Path(folder).expanduser() / "last.ckpt"
        self.past, self.identity = past, identity
        self.epochs: list[dict[str, float]] = []

    def found(self, max_epochs: int) -> Path | None:
        """The checkpoint, if there is one; ValueError: if it is damaged, or of another or a longer training."""
        if not self.path.exists():
            return None
        content = read_torch_file(self.path)
        theirs = content.get(IDENTITY) or {}
        different = {name: own for name, own in self.identity.items() if theirs.get(name) != own}
        # Of another model everything differs: its name says enough.
        shown = [MODEL] if MODEL in different else list(different)
        other = [f"{name} {str(theirs.get(name, 'unknown')) or 'none'}, not {different[name]}" for name in shown]
        if other:
            msg = (
                f"{self.path} is the checkpoint of another training: {'; '.join(other)}. To go on with that one, "
                "train as it was; for a new one, pass another folder: checkpoint_dir="
                f"{str(self.path.parent) + '_2'!r}."
            )
            raise ValueError(msg)
        done = len(content[HISTORY]["epochs"])
        if done > max_epochs:
            msg = (
                f"{self.path} is a checkpoint after {done} epochs, but the training is to end after {max_epochs}. Pass "
                f"max_epochs={done}, or another folder: checkpoint_dir={str(self.path.parent) + '_2'!r}."
            )
            raise ValueError(msg)
        logger.info("Resuming the training from %s.", self.path)
        return self.path

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Keep the history, and whose it is, beside the state."""
        checkpoint |= {HISTORY: {"past": self.past, "epochs": self.epochs}, IDENTITY: self.identity}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Go on with the history."""
        self.past, self.epochs = checkpoint[HISTORY]["past"], checkpoint[HISTORY]["epochs"]

    def recall(self) -> None:
        """Read the history from the checkpoint if it was written by processes that are gone, as in a notebook."""
        if not self.epochs and self.path.exists():
            history = read_torch_file(self.path)[HISTORY]
            self.past, self.epochs = history["past"], history["epochs"]

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        """Losses of all epochs of this training, those before it was resumed included, as scvi-tools keeps them."""
        names = dict.fromkeys(name for losses in self.epochs for name in losses)
        return {name: frame_of(name, [losses.get(name, math.nan) for losses in self.epochs]) for name in names}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the checkpoint in one move: an interruption leaves the old one whole."""
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        unfinished = self.path.with_suffix(".part")
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            unfinished.replace(self.path)


def frame_of(name: str, values: Sequence[float]) -> pd.DataFrame:
    """A history as scvi-tools keeps it: one row per epoch."""
    return pd.DataFrame({name: values}).rename_axis("epoch")


def identity_of(
    model: object,
    plan: Any,
    data: pl.LightningDataModule,
    called_with: Mapping[str, Any],
    *,
    max_epochs: int,
) -> dict[str, str | int | float]:
    """What makes a training the one that it is, each by its name."""
    asked = {name: value for name, value in called_with.items() if name not in NOT_CHANGING}
    identity: dict[str, str | int | float] = {name: _brief(value) for name, value in asked.items()}
    setup = (getattr(model, "registry", None) or {}).get("setup_args", {})
    identity |= {f"setup {name}": _brief(value) for name, value in setup.items()}
    if (config := getattr(model, "config", None)) is not None:
        identity |= {f"config {name}": _brief(value) for name, value in config.choices().items()}
    identity |= {
        MODEL: type(model).__name__,
        # Weights that were drawn, by what they were drawn with; those that were loaded, by their checksum.
        "seed of the model": _seed_of(model),
        "initial weights": _brief(getattr(model, "description_", {}).get("sha256")),
        "parameters": _digest(f"{name} {tuple(value.shape)}" for name, value in plan.module.named_parameters()),
        "steps per epoch": len(data.train_dataloader()),
        "seed": plan.seed,
        "lr": plan.lr,
        "part_lrs": ", ".join(f"{rate:g}" for _, rate in plan.other_rates),
        "weight_decay": plan.weight_decay,
        "warmup_steps": plan.warmup_steps,
        "schedule": plan.schedule,
    }
    if plan.schedule != "constant":  # it falls towards the end
        identity["max_epochs"] = max_epochs
    adata = getattr(model, "adata", None)
    if adata is not None:
        identity |= {"cells": _digest(adata.obs_names), "genes": _digest(adata.var_names)}
    return identity


def _seed_of(model: object) -> int:
    return int(getattr(model, "init_params_", {}).get("non_kwargs", {}).get("seed", 0))


def _brief(value: Any) -> str:
    """Plain values as text that is the same for the same values; long ones by their digest."""
    text = repr(json.loads(json.dumps(value, sort_keys=True, default=lambda many: np.asarray(many).tolist())))
    return text if len(text) <= LONGEST else _digest([text])


def _digest(names: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()[:16]
