"""Where a cell sits in its tissue: the 2-D sinusoid of CellPLM (section 3.2 of the paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PositionCode", "position_code"]

N_BINS = 100


def position_code(coordinates: Tensor, n_hidden: int) -> Tensor:
    r"""Sinusoid of the binned coordinates.

    With :math:`\omega_m = 10000^{-4m/D}`, channels :math:`2m, 2m+1` hold :math:`\sin(y\omega_m), \cos(y\omega_m)` in
    the first half and the same of x in the second: the released order of the axes.

    ``coordinates``: x and y in [0, 1], (n, 2).
    """
    bins = ((coordinates.float() * 1.02 - 0.01) * N_BINS).trunc().clamp(0, N_BINS - 1)
    m = torch.arange(n_hidden // 4, device=coordinates.device)
    angle = bins.flip(1)[..., None] * 10000.0 ** (-4 * m / n_hidden)  # (n, 2, D/4), y first
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class PositionCode(nn.Module):
    """The sinusoid for cells with coordinates, one shared learned vector for contexts without."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.placeholder = nn.init.normal_(nn.Parameter(torch.empty(n_hidden)), std=0.01)

    def forward(self, coordinates: Tensor | None) -> Tensor:
        """Code of n cells, (n, D), or the placeholder, (D,)."""
        if coordinates is None:
            return self.placeholder
        return position_code(coordinates, len(self.placeholder))
