"""Cell types read off a cell: from its embedding, and from the genes themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from scfoundry.nn.heads import MLPHead

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.nn.counts import SparseCounts

__all__ = ["AnnotationHead"]

# Published for the annotation head.
HEAD_DROPOUT = 0.5


class AnnotationHead(nn.Module):
    r"""The mean of two opinions: a linear layer on the embedding, and one on log expression.

    .. math:: p_i = \operatorname{softmax}\left(\tfrac{1}{2} (W \tilde z_i + b) + \tfrac{1}{2} (V x_i + a)\right)

    An embedding knows what cell types have in common over studies, but little of differences it has never seen; single
    genes tell those apart, but follow the technology. Each is fitted by itself, and the surer one decides.

    Parameters
    ----------
    n_latent
        Width Z of the embedding.
    n_genes
        Size of the vocabulary G.
    n_classes
        Number of cell types C.
    reads_genes
        Whether there is a second opinion; with the embedding alone it is the published head.
    """

    latent_mean: Tensor
    latent_scale: Tensor
    measured: Tensor
    gene_mean: Tensor

    def __init__(self, n_latent: int, n_genes: int, n_classes: int, *, reads_genes: bool) -> None:
        super().__init__()
        self.latent = MLPHead(n_latent, n_classes, dropout=HEAD_DROPOUT)
        self.register_buffer("latent_mean", torch.zeros(n_latent))
        self.register_buffer("latent_scale", torch.ones(n_latent))
        # Genes that both reference and query measured; the others are hidden from the whole model.
        self.register_buffer("measured", torch.ones(n_genes, dtype=torch.bool))
        self.reads_genes = reads_genes
        if reads_genes:
            self.register_buffer("gene_mean", torch.zeros(n_genes))
            self.gene_weights = nn.Parameter(torch.zeros(n_genes, n_classes))
            self.gene_bias = nn.Parameter(torch.zeros(n_classes))

    @property
    def latent_layer(self) -> nn.Linear:
        """The only layer of the first opinion."""
        (layer,) = self.latent.layers
        return cast("nn.Linear", layer)

    def standardised(self, latent: Tensor) -> Tensor:
        """Embeddings on the scale of the reference, (n, Z)."""
        return (latent - self.latent_mean) / self.latent_scale

    def by_latent(self, latent: Tensor) -> Tensor:
        """Logits of the first opinion, (n, C)."""
        return self.latent(self.standardised(latent))

    def by_genes(self, expression: SparseCounts, absent: Tensor | None = None) -> Tensor:
        """Logits of the second opinion, (n, C); nothing is made dense."""
        told = F.embedding_bag(
            expression.genes,
            self.gene_weights,
            expression.indptr,
            mode="sum",
            per_sample_weights=expression.values,
            include_last_offset=True,
        )
        # A gene that was not measured says as much as one at its mean.
        unknown = 0 if absent is None else self.gene_mean[absent] @ self.gene_weights[absent]
        return told + self.gene_bias + unknown

    @torch.no_grad()
    def take_back(self, logits: NDArray[np.float64]) -> None:
        """Subtract from the logits of both opinions, (C,)."""
        for bias in (self.latent_layer.bias, *([self.gene_bias] if self.reads_genes else [])):
            bias.sub_(torch.from_numpy(logits).to(bias))

    def forward(self, latent: Tensor, expression: SparseCounts, absent: Tensor | None = None) -> Tensor:
        """Probabilities of the cell types.

        Parameters
        ----------
        latent
            Embeddings, (n, Z).
        expression
            Log expression of the same cells, as `SparseCounts.log_normalised` gives it.
        absent
            Genes that the reference measured and these cells did not, (G,) bool.
        """
        logits = self.by_latent(latent).float()
        if self.reads_genes:
            logits = (logits + self.by_genes(expression, absent)) / 2
        return logits.softmax(1)
