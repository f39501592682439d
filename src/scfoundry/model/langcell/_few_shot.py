"""Fine-tuning on a few labelled cells through the texts of their labels (Zhao et al. 2024, section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from scfoundry._settings import logger
from scfoundry.model.langcell._encoders import unit
from scfoundry.train.cells import CellDataModule, CellTrainingPlan
from scfoundry.train.plan import fit, training_only

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scfoundry.nn.sequences import TokenLists
    from scfoundry.model.langcell._config import Mixture
    from scfoundry.model.langcell._module import LangCellModule
    from scfoundry.model.langcell._training_data import TrainingCells
    from scfoundry.train.plan import Trainable

__all__ = ["LabelTextLosses", "TunedPart", "draw_shots", "labelled_cells", "learn_texts"]

TunedPart = Literal["all", "head"]

ENCODERS = ("cell", "text")
PROJECTIONS = ("cell_projection", "text_projection")


class LabelTextLosses:
    """Which of P texts is a cell's, by similarity and by matching.

    ``labels``: number of each cell's text, -1 where it has none, (n_obs,). ``words``: word pieces of the texts.
    ``losses``: ``"released"`` takes the cross-entropy of match probabilities as if they were logits; ``"corrected"`` of
    the log odds of a match.
    """

    def __init__(
        self, module: LangCellModule, cells: TrainingCells, labels: np.ndarray, words: TokenLists, *, losses: Mixture
    ) -> None:
        self.module, self.cells, self.losses = module, cells, losses
        self.labels = torch.from_numpy(labels)
        self.words = words.padded(np.arange(len(words.lengths)))

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """Sum of the two losses, and each of them."""
        device, text = self.module.device, self.module.text
        words = self.words[0].to(device)
        words_present = None if self.words[1] is None else self.words[1].to(device)
        cells = self.cells.batch(rows, device)
        labels = self.labels[torch.from_numpy(rows)].to(device)
        states = self.module.cell(cells.tokens, cells.present)
        read = unit(self.module.text_projection(text(words, words_present)[:, 0]))
        cosine = self.module.project_cells(states).float() @ read.float().T
        similarity = F.cross_entropy(cosine / self.module.config.temperature, labels)

        begun = text.begin(words, words_present)
        logits = torch.stack(
            [
                self.module.match_logits(
                    begun,
                    words_present,
                    text.look_at(states[i : i + 1]),
                    None if cells.present is None else cells.present[i : i + 1],
                )
                for i in range(len(rows))
            ]
        ).float()  # (B, P, 2)
        scores = logits.softmax(-1)[..., 1] if self.losses == "released" else logits[..., 1] - logits[..., 0]
        matching = F.cross_entropy(scores, labels)
        return {"loss": similarity + matching, "similarity": similarity, "matching": matching}


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
        known = ", ".join(map(repr, classes))
        msg = f"There is no text for the labels {', '.join(map(repr, unknown))}; texts: {known}."
        raise ValueError(msg)
    coded = np.full(len(given), -1)
    coded[~missing] = [numbers[str(label)] for label in given[~missing]]
    if missing.all():
        msg = "None of the cells has a label: there is nothing to learn from."
        raise ValueError(msg)
    if n_shots is None:
        return coded, np.flatnonzero(coded >= 0)
    if n_shots < 1:
        msg = f"n_shots must be at least 1 cell per class; got {n_shots}."
        raise ValueError(msg)
    rows = draw_shots(coded, n_shots, seed)
    counts = np.bincount(coded[rows], minlength=len(classes))
    if short := [f"{name!r} ({n})" for name, n in zip(classes, counts, strict=True) if 0 < n < n_shots]:
        logger.warning("Fewer than %d cells to learn from: %s.", n_shots, ", ".join(short))
    return coded, rows


def learn_texts(
    model: Trainable[LangCellModule],
    loss: LabelTextLosses,
    rows: np.ndarray,
    *,
    train: TunedPart,
    lr: float,
    batch_size: int,
    seed: int,
    **trainer_kwargs: Any,
) -> None:
    """Train encoders and projections, or the projections alone, on the cells in some rows."""
    data = CellDataModule(rows, rows[:0], lengths=loss.cells.lengths(), batch_size=batch_size)
    # Adam without weight decay: the released two optimisers, one per encoder, amount to one.
    plan = CellTrainingPlan(
        model.module, data, loss, lr=lr, weight_decay=0.0, warmup_steps=0, schedule="constant", seed=seed
    )
    parts = [*PROJECTIONS, *(ENCODERS if train == "all" else ())]
    if loss.losses == "corrected":
        parts.append("match_head")
    with training_only(model.module, parts):
        fit(model, plan, data, **trainer_kwargs)
