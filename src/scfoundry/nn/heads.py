"""Heads that turn a cell's latent into a prediction."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MLPHead"]


class MLPHead(nn.Module):
    """Linear layers with dropout before each and ReLU between."""

    def __init__(
        self, n_input: int, n_output: int, *, n_hidden: int = 128, n_layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [n_input, *[n_hidden] * (n_layers - 1), n_output]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map latents (n, Z) to outputs (n, classes)."""
        *hidden, output = self.layers
        for layer in hidden:
            x = layer(self.dropout(x)).relu()
        return output(self.dropout(x))
