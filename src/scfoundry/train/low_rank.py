"""Low-rank adaptation of attention (Hu et al. 2022), merged into the weights when training ends."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["RANK", "with_lora"]

RANK = 8
# Published as alpha over rank, with an alpha of twice the rank.
SCALE = 2.0


class LowRank(nn.Module):
    r"""A matrix plus one of low rank, :math:`W + s B A`: A (r, in) begins at random, B (out, r) at zero."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        n_out, n_in = weight.shape
        self.a = nn.Parameter(torch.randn(rank, n_in).to(weight) * n_in**-0.5)
        self.b = nn.Parameter(weight.new_zeros(n_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The sum."""
        return torch.addmm(weight, self.b, self.a, alpha=SCALE)


@contextmanager
def with_lora(module: nn.Module, rank: int) -> Iterator[None]:
    """Let attention learn by matrices of low rank alone, and what the module calls its heads as before.

    Which projections are adapted, a layer says (``lora_targets``), and which parts are heads, the module that has them
    (``lora_heads``); what is around that module learns as before, and what was frozen stays so. At the end projections
    are the sums, under their old names.

    ValueError: if no attention is to learn, or the rank is not positive.
    """
    if rank < 1:
        msg = f"lora must be True or a rank of at least 1; got {rank}. As published: lora=True, a rank of {RANK}."
        raise ValueError(msg)
    wholes = [part for part in module.modules() if hasattr(part, "lora_heads")]
    of_heads = {parameter for whole in wholes for parameter in _of_heads(whole)}
    frozen = [p for whole in wholes for p in whole.parameters() if p.requires_grad and p not in of_heads]
    found = [getattr(layer, name) for layer in module.modules() for name in getattr(layer, "lora_targets", ())]
    projections = [layer for layer in found if layer.weight in set(frozen)]
    if not projections:
        msg = (
            "lora=True adapts layers of attention, and none is to learn here: the model has none, or they are frozen. "
            "Train without it: lora=False."
        )
        raise ValueError(msg)
    for layer in projections:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for layer in projections:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        for parameter in frozen:
            parameter.requires_grad_(True)


def _of_heads(whole: nn.Module) -> list[nn.Parameter]:
    parts = dict(whole.named_modules())
    return [parameter for name in whole.lora_heads if name in parts for parameter in parts[name].parameters()]  # type: ignore[union-attr]
