"""What genes a cell type is expected to show, and how well cells show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["MarkerProfiles", "match", "showing"]

SHRINKAGE = 0.05
# Less than this is shared by chance; types that share nearly as much as the best are kinds of one another, mostly.
MIN_SHARED = 0.3
NEARLY_BEST = 0.6


class MarkerProfiles(nn.Module):
    r"""Weights of genes for K cell types, and the weighted mean z-score of cells.

    .. math:: k_{it} = \frac{\sum_g m_g P_{tg} z_{ig}}{\sum_g m_g P_{tg} + 0.05},

    with :math:`m_g` 1 for measured genes. Rows of :math:`P` add up to about 1, and are stored sparse. The shrinkage
    keeps a type of which hardly a marker is measured from winning by chance.

    ``n_markers``: number of markers of every type, (K,).
    """

    genes: Tensor
    weights: Tensor

    def __init__(self, n_markers: Sequence[int], n_genes: int) -> None:
        super().__init__()
        self.n_markers, self.n_genes = list(n_markers), n_genes
        self.register_buffer("genes", torch.zeros(sum(self.n_markers), dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(sum(self.n_markers)))

    @property
    def markers(self) -> Tensor:
        """Weights of genes for every type, (K, G)."""
        types = torch.repeat_interleave(torch.tensor(self.n_markers, dtype=torch.long)).to(self.weights.device)
        dense = self.weights.new_zeros(len(self.n_markers), self.n_genes)
        return dense.index_put_((types, self.genes.long()), self.weights, accumulate=True)

    @torch.no_grad()
    def learn(self, markers: Tensor) -> None:
        """Take over weights, (K, G), that are 0 for all genes but the markers of a type."""
        types, genes = torch.nonzero(markers, as_tuple=True)
        self.genes.copy_(genes)
        self.weights.copy_(markers[types, genes])

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
