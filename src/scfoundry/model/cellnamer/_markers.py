"""What genes a cell type is expected to show, and how well cells show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MarkerProfiles", "match", "showing"]

SHRINKAGE = 0.05
# Less than this is shared by chance; types that share nearly as much as the best are kinds of one another, mostly.
MIN_SHARED = 0.3
NEARLY_BEST = 0.6


class MarkerProfiles(nn.Module):
    r"""Weights of genes for K cell types, and the weighted mean z-score of cells.

    .. math:: k_{it} = \frac{\sum_g m_g P_{tg} z_{ig}}{\sum_g m_g P_{tg} + 0.05},

    with :math:`m_g` 1 for measured genes. Rows of :math:`P` add up to about 1. The shrinkage keeps a type of which
    hardly a marker is measured from winning by chance. :math:`P` is a product of two narrow matrices: types that share
    markers share what is stored of them.

    ``rank``: width of the two matrices.
    """

    of_types: Tensor
    of_genes: Tensor

    def __init__(self, n_types: int, n_genes: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("of_types", torch.zeros(n_types, rank))
        self.register_buffer("of_genes", torch.zeros(rank, n_genes))

    @property
    def markers(self) -> Tensor:
        """Weights of genes for every type, (K, G)."""
        return self.of_types @ self.of_genes

    @torch.no_grad()
    def learn(self, markers: Tensor) -> None:
        """Take over the best approximation of given weights, (K, G)."""
        # Types with many markers have small weights each; unscaled, they would be the first to be lost.
        length = markers.norm(dim=1, keepdim=True).clamp(min=1e-9)
        u, s, v = torch.linalg.svd(markers / length, full_matrices=False)
        rank = min(self.of_types.shape[1], len(s))
        root = s[:rank].sqrt()
        self.of_types.zero_()[:, :rank] = length * u[:, :rank] * root
        self.of_genes.zero_()[:rank] = root[:, None] * v[:rank]

    def forward(self, z: Tensor, measured: Tensor) -> Tensor:
        """Match of n cells with the K profiles, (n, K)."""
        return match(z, measured, self.markers)


def showing(markers: Tensor, profiles: Tensor) -> list[int]:
    """Positions of the profiles (K, G) that share most with given weights of markers (G,); none if none shares much.

    What a profile shares is the mean weight of the markers in it, relative to its strongest gene.
    """
    profiles = profiles.clamp(min=0)
    strength = profiles @ markers / (markers.sum() * profiles.amax(1)).clamp(min=1e-9)
    enough = max(MIN_SHARED, NEARLY_BEST * float(strength.max())) if len(strength) else MIN_SHARED
    return torch.nonzero(strength >= enough).flatten().tolist()


def match(z: Tensor, measured: Tensor, profiles: Tensor) -> Tensor:
    """Weighted mean z-score of n cells over the measured genes of each profile, (n, K)."""
    return (z @ profiles.T) / ((measured.to(z.dtype) @ profiles.T).clamp(min=0) + SHRINKAGE)
