"""Fine-tuning on a few labelled cells through the texts of their labels (Zhao et al. 2024, section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from scfoundry.model.langcell._encoders import unit
from scfoundry.train.cells import CellDataModule, CellTrainingPlan
from scfoundry.train.plan import fit, training_only

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from scfoundry.model.langcell._config import Mixture
    from scfoundry.model.langcell._module import LangCellModule
    from scfoundry.model.langcell._training_data import TrainingCells
    from scfoundry.nn.sequences import TokenLists
    from scfoundry.train.plan import Trainable

__all__ = ["LabelTextLosses", "TunedPart", "learn_texts"]

TunedPart = Literal["all", "head"]

ENCODERS = ("cell", "text")
PROJECTIONS = ("cell_projection", "text_projection")


class LabelTextLosses:
    """Which of P texts is a cell's, by similarity and by matching.

    ``labels``: number of each cell's text, -1 where it has none, (n_obs,). ``words``: word pieces of the texts.
    ``losses``: ``"released"`` takes the cross-entropy of match probabilities as if they were logits; ``"corrected"`` of
    the log odds of a match. ``minimised``: loss of scores of the texts and labels, cross-entropy as published.
    """

    def __init__(
        self,
        module: LangCellModule,
        cells: TrainingCells,
        labels: np.ndarray,
        words: TokenLists,
        *,
        losses: Mixture,
        minimised: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        self.module, self.cells, self.losses, self.minimised = module, cells, losses, minimised
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
        similarity = self.minimised(cosine / self.module.config.temperature, labels)

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
        matching = self.minimised(scores, labels)
        return {"loss": similarity + matching, "similarity": similarity, "matching": matching}


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
    sizes: dict[str, Any] = {"lengths": loss.cells.lengths(), "batch_size": batch_size}
    data = CellDataModule(rows, rows[:0], **sizes, blocks=loss.cells.reader.by_blocks())
    # Adam without weight decay: the released two optimisers, one per encoder, amount to one.
    plan = CellTrainingPlan(
        model.module, data, loss, lr=lr, weight_decay=0.0, warmup_steps=0, schedule="constant", seed=seed
    )
    parts = [*PROJECTIONS, *(ENCODERS if train == "all" else ())]
    if loss.losses == "corrected":
        parts.append("match_head")
    with training_only(model.module, parts):
        fit(model, plan, data, **trainer_kwargs)
