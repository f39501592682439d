"""What a classifier of labels minimises: a loss by its name or its settings, and how hard examples are mined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from scfoundry._settings import logger
from scfoundry.nn.losses import (
    BalancedSoftmax,
    ClassLoss,
    CrossEntropy,
    Focal,
    GInf,
    Reduction,
    default_n_hard,
    hard_cell_weights,
    hard_classes,
    reduced,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["PLAIN", "HardMining", "LabelLoss", "LossName"]

LossName = Literal["cross_entropy", "balanced_softmax", "focal", "ginf"]
HardMining = bool | int | Literal["cells"]

USUAL = CrossEntropy()
BY_NAME: dict[str, ClassLoss] = {
    "cross_entropy": USUAL,
    "balanced_softmax": BalancedSoftmax(),
    "focal": Focal(),
    "ginf": GInf(),
}


@dataclass(frozen=True)
class LabelLoss:
    """A loss, and hard mining on top of it.

    Attributes
    ----------
    loss
        Of logits.
    hard_mining
        Whether the loss over the classes that an example is most confused with is added: over ``int`` of them beside
        its own, a third of all classes and 20 at most if `True`. Or ``"cells"``: what is confidently taken for another
        class counts up to twice instead.
    """

    loss: ClassLoss = USUAL
    hard_mining: HardMining = False

    @classmethod
    def of(cls, loss: LossName | ClassLoss, hard_mining: HardMining = False) -> LabelLoss:
        """Loss by its name, or as it is given.

        Raises
        ------
        ValueError
            If there is no such loss or mining.
        """
        found = BY_NAME.get(loss) if isinstance(loss, str) else loss
        if found is None or not callable(found):
            names = ", ".join(f'"{name}"' for name in get_args(LossName))
            msg = (
                f"loss is one of {names} or one with settings of its own; got {loss!r}. For long tails: "
                'loss="ginf", or from scfoundry.nn.losses import GInf; loss=GInf(sigma=0.2).'
            )
            raise ValueError(msg)
        if hard_mining != "cells" and (not isinstance(hard_mining, int) or hard_mining < 0):
            msg = (
                'hard_mining is True or False, a number of classes, or "cells"; got '
                f"{hard_mining!r}. The usual: hard_mining=True."
            )
            raise ValueError(msg)
        return cls(found, hard_mining)

    @property
    def plain(self) -> bool:
        """Whether it is cross-entropy and no more."""
        return self == PLAIN

    @property
    def params(self) -> dict[str, Any]:
        """Name of the loss, its settings and the mining, as a file can hold them."""
        name = next((name for name, usual in BY_NAME.items() if type(usual) is type(self.loss)), "")
        settings = {f"loss_{setting}": value for setting, value in vars(self.loss).items()}
        return {"loss": name or type(self.loss).__name__, "hard_mining": self.hard_mining} | settings

    @property
    def mines_classes(self) -> bool:
        """Whether a loss over confused classes is added."""
        return bool(self.hard_mining) and self.hard_mining != "cells"

    def n_hard(self, n_classes: int) -> int:
        """Classes beside its own that an example is mined over."""
        return default_n_hard(n_classes) if self.hard_mining is True else int(self.hard_mining)

    def warn_if_idle(self, n_classes: int, *, caller: str) -> None:
        """Say so where mining over classes comes to the loss itself, once more."""
        if self.mines_classes and self.n_hard(n_classes) >= n_classes - 1:
            logger.warning(
                "%s: hard mining over %d classes beside a cell's own takes in all %d, so that it only doubles the "
                "loss. Pass fewer, hard_mining=%d, or none: hard_mining=False.",
                caller,
                self.n_hard(n_classes),
                n_classes,
                min(default_n_hard(n_classes), max(n_classes - 2, 1)),
            )

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor,
        class_counts: Tensor,
        *,
        generator: torch.Generator | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """Loss of logits (B, C) and targets (B,), with fresh noise; ``class_counts`` as in `scfoundry.nn.losses`."""
        draw = self.loss.draw(logits, generator)
        how: dict[str, Any] = {"draw": draw}
        if not self.hard_mining:
            return self.loss(logits, targets, class_counts, reduction=reduction, **how)
        values = self.loss(logits, targets, class_counts, reduction="none", **how)
        if self.mines_classes:
            among = hard_classes(logits, targets, self.n_hard(logits.shape[1]))
            values = values + self.loss(logits, targets, class_counts, among=among, reduction="none", **how)
        else:
            values = values * hard_cell_weights(logits, targets)
        return reduced(values, reduction)


PLAIN = LabelLoss()
