"""Attention as a product of two factors: pairs of cells, or of positions, that need not stand in memory together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["AttentionFactors", "GeneAttention"]


class AttentionFactors(NamedTuple):
    r"""Weights of a context as a product, :math:`w^h_{ij} = a^h_i \cdot b^h_j` for every head :math:`h`."""

    receiving: Tensor  # a_i, what cell i asks for, (n, H, d)
    sending: Tensor  # b_j, what cell j offers, (n, H, d)


class GeneAttention(NamedTuple):
    r"""Logits of a layer's attention within each of B cells, :math:`q^h_i \cdot k^h_j` for every head :math:`h`.

    Position i attends to j; the softmax over the positions j that are present gives the weights of the layer.
    """

    rows: NDArray[np.int64]  # the cells, (B,)
    layer: int
    genes: Tensor  # numbers of the genes in the vocabulary; -1 at <cls>, which comes first, and at padding, (B, L)
    present: Tensor | None  # which positions are no padding, `None` where all are, (B, L)
    queries: Tensor  # q_i over the square root of d, (B, H, L, d)
    keys: Tensor  # k_j, (B, H, L, d)
