"""Attention between cells as a product of two factors: cells x cells weights that never stand in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AttentionFactors"]


class AttentionFactors(NamedTuple):
    r"""Weights of a context as a product, :math:`w^h_{ij} = a^h_i \cdot b^h_j` for every head :math:`h`."""

    receiving: Tensor  # a_i, what cell i asks for, (n, H, d)
    sending: Tensor  # b_j, what cell j offers, (n, H, d)
