"""What genes a cell type is expected to show, and how well cells show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MarkerProfiles"]

SHRINKAGE = 0.05


class MarkerProfiles(nn.Module):
    r"""Weights of genes for K cell types, and the weighted mean z-score of cells.

    .. math:: k_{it} = \frac{\sum_g m_g P_{tg} z_{ig}}{\sum_g m_g P_{tg} + 0.05},

    with :math:`m_g` 1 for measured genes. Rows start as marker sets that add up to 1; training on labelled cells then
    raises the genes that tell types apart in real data and lowers those that do not. The shrinkage keeps a type of
    which hardly a marker is measured from winning by chance.

    Parameters
    ----------
    n_types
        Number of cell types, K.
    n_genes
        Size of the vocabulary, G.
    """

    markers: Tensor

    def __init__(self, n_types: int, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("markers", torch.zeros(n_types, n_genes))

    def forward(self, z: Tensor, measured: Tensor, further: Tensor | None = None) -> Tensor:
        """Match of n cells with the K profiles, and with ``further`` (M, G) ones, (n, K + M)."""
        profiles = self.markers if further is None else torch.cat([self.markers, further])
        return match(z, measured, profiles)


def match(z: Tensor, measured: Tensor, profiles: Tensor) -> Tensor:
    """Weighted mean z-score of n cells over the measured genes of each profile, (n, K)."""
    return (z @ profiles.T) / (measured.to(z.dtype) @ profiles.T + SHRINKAGE)
