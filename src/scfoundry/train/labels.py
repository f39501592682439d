"""Labels of the cells that a classifier learns from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scfoundry._arguments import quoted
from scfoundry._settings import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from scfoundry.nn.label_loss import LabelLoss

__all__ = [
    "ClassificationLoss",
    "classes_of_cells",
    "draw_shots",
    "in_obs_order",
    "labelled_cells",
    "loss_of_sizes",
    "warn_of_one_class",
]

# Cells that are looked at to see whether all get the same class.
N_LOOKED_AT = 500


def in_obs_order(values: Any, names: np.ndarray, what: str) -> Any:
    """Bring what is given for every cell into the order of their names: a table by its index, others as they are.

    ValueError: if the index of a table lacks cells, or names one of them twice.
    """
    obs_names = pd.Index(names)
    if not isinstance(values, pd.Series | pd.DataFrame) or values.index.equals(obs_names):
        return values
    missing = obs_names[~obs_names.isin(values.index)]
    if len(missing):
        msg = (
            f"{what} says nothing of {len(missing):,} of {len(obs_names):,} cells, for example {missing[0]!r}: its "
            f"index must hold adata.obs_names. If its rows are the cells in order: {what}.set_axis(adata.obs_names)."
        )
        raise ValueError(msg)
    wanted = values[values.index.isin(obs_names)]
    if not wanted.index.is_unique or not obs_names.is_unique:
        msg = f"{what} is in another order than adata, and cells share a name. Make names unique before."
        raise ValueError(msg)
    return wanted.loc[obs_names]


def draw_shots(labels: np.ndarray, n_shots: int, seed: int) -> np.ndarray:
    """Rows of ``n_shots`` cells per class, all of a class that has fewer; -1 is no class."""
    rng = np.random.default_rng(seed)
    shots = [rng.permutation(np.flatnonzero(labels == label))[:n_shots] for label in np.unique(labels[labels >= 0])]
    return np.sort(np.concatenate(shots))


def labelled_cells(
    labels: Any, classes: Sequence[str], names: np.ndarray, n_shots: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Class number of every cell, -1 where it is missing, and the rows to learn from.

    ValueError: if there is not one label per cell, or a label is none of the classes.
    """
    given = np.asarray(labels, dtype=object)
    if len(given) != len(names):
        msg = f"{len(given)} labels for {len(names)} cells; one per cell is needed: adata.obs['cell_type'].to_numpy()."
        raise ValueError(msg)
    missing = np.array([label is None or label != label for label in given])
    numbers = {name: i for i, name in enumerate(classes)}
    if unknown := sorted({str(label) for label in given[~missing]} - numbers.keys()):
        known = quoted(classes)
        msg = f"There is no text for the labels {quoted(unknown)}; texts: {known}. Give one to each."
        raise ValueError(msg)
    coded = np.full(len(given), -1)
    coded[~missing] = [numbers[str(label)] for label in given[~missing]]
    if missing.all():
        msg = "None of the cells has a label, so that there is nothing to learn from. Fill the column, or name another."
        raise ValueError(msg)
    if n_shots is None:
        return coded, np.flatnonzero(coded >= 0)
    if n_shots < 1:
        msg = f"n_shots must be at least 1 cell per class; got {n_shots}. For all cells: n_shots=None."
        raise ValueError(msg)
    rows = draw_shots(coded, n_shots, seed)
    counts = np.bincount(coded[rows], minlength=len(classes))
    if short := [f"{name!r} ({n})" for name, n in zip(classes, counts, strict=True) if 0 < n < n_shots]:
        logger.warning("Fewer than %d cells to learn from, all are taken: %s.", n_shots, ", ".join(short))
    return coded, rows


def classes_of_cells(
    labels: Any, names: np.ndarray, n_shots: int | None, seed: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the classes, sorted, and what `labelled_cells` says of them. ValueError: if there is less than two."""
    labels = in_obs_order(labels, names, "labels")
    classes = sorted(pd.Series(labels).dropna().astype(str).unique())
    if len(classes) < 2:
        msg = f"A classifier tells at least 2 classes apart; the labels have {len(classes)}: {classes}."
        raise ValueError(msg)
    return classes, *labelled_cells(labels, classes, names, n_shots, seed)


def warn_of_one_class(
    probabilities: Callable[[np.ndarray], np.ndarray],
    coded: np.ndarray,
    rows: np.ndarray,
    classes: Sequence[str],
    seed: int,
) -> None:
    """Warn of a trained head that gives one class to all of some cells it learned from, although they have several."""
    looked_at = np.intersect1d(draw_shots(coded, max(1, N_LOOKED_AT // len(classes)), seed), rows)
    given = np.unique(probabilities(looked_at).argmax(1))
    if len(given) == 1 and len(np.unique(coded[looked_at])) > 1:
        logger.warning(
            "The classifier calls every cell %r: it learned nothing. Try a larger lr or more epochs.",
            classes[given[0]],
        )


class ClassificationLoss:
    """Loss of the classes of a batch of cells, given targets of all, (n_obs,) or (n_obs, C).

    ``logits``: of the cells in some rows, (B, C). ``held_out``: loss by which training stops; the same if `None`.
    """

    def __init__(
        self,
        module: nn.Module,
        logits: Callable[[np.ndarray], Tensor],
        targets: np.ndarray,
        loss: Callable[[Tensor, Tensor], Tensor],
        held_out: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.module, self.logits, self.loss, self.held_out = module, logits, loss, held_out or loss
        self.targets = torch.from_numpy(targets)

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """The loss."""
        logits = self.logits(rows).float()
        loss = self.loss if self.module.training else self.held_out
        return {"loss": loss(logits, self.targets[torch.from_numpy(rows)].to(logits.device))}


def loss_of_sizes(loss: LabelLoss, codes: np.ndarray, n_classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Loss of logits and targets, where so many cells of a class are learned from as there are codes."""
    return partial(loss, class_counts=torch.from_numpy(np.bincount(codes, minlength=n_classes)))
