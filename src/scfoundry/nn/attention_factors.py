"""Attention as a product of two factors, of pairs that need not stand in memory together, and that of ``<cls>``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["AttentionFactors", "ClsAttention", "GeneAttention", "attention_of_cls"]

# Divides what a cell without genes gives to genes: nothing.
TINY = 1e-30


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


class ClsAttention(NamedTuple):
    """How ``<cls>`` of each of B cells divides its attention between the genes of the cell."""

    rows: NDArray[np.int64]  # the cells, (B,)
    genes: Tensor  # numbers of the genes in the vocabulary, -1 at other positions, (B, L)
    shares: Tensor  # at least 0, 0 where there is no gene; they sum to 1 if the cell has genes, (B, L)

    @classmethod
    def of(cls, rows: NDArray[np.int64], genes: Tensor, weights: Tensor) -> ClsAttention:
        """Leave out what goes to other positions than genes, given weights of all of them, (B, L)."""
        of_genes = weights.masked_fill(genes < 0, 0)
        return cls(rows, genes, of_genes / of_genes.sum(1, keepdim=True).clamp(min=TINY))


def attention_of_cls(found: Iterable[GeneAttention], n_layers: int) -> Iterator[ClsAttention]:
    """Mean over heads and layers of the softmax of ``<cls>``; batch by batch, all ``n_layers`` of each in a row."""
    of_layers: list[Tensor] = []
    for layer in found:
        logits = (layer.queries[:, :, :1].float() @ layer.keys.float().mT)[:, :, 0]  # (B, H, L)
        if layer.present is not None:
            logits = logits.masked_fill(~layer.present[:, None], -torch.inf)
        of_layers.append(logits.softmax(-1).mean(1))
        if len(of_layers) == n_layers:
            yield ClsAttention.of(layer.rows, layer.genes, torch.stack(of_layers).mean(0))
            of_layers.clear()
