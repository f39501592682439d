"""Expression as small corpora need it: log values standardised per gene, and a small network on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scfoundry.nn.counts import SparseCounts

__all__ = ["ExpressionMLP", "GeneMoments", "GeneScale", "SparseScores"]

MIN_SD = 0.05
Z_RANGE = (-3.0, 8.0)


class GeneMoments:
    """Mean and standard deviation of every gene over the cells of a data set, gathered block by block.

    Cells without any expression say nothing about a gene and are left out. Sums are in double precision, so that
    neither the order of cells nor the size of blocks shows in the result.

    Attributes
    ----------
    n_cells
        Cells with expression seen so far.
    """

    def __init__(self, n_genes: int) -> None:
        self.n_cells = 0
        self._sum = torch.zeros(n_genes, dtype=torch.float64)
        self._squares = torch.zeros(n_genes, dtype=torch.float64)

    def update(self, expression: SparseCounts) -> None:
        """Take in log expression of further cells."""
        # In this order: not every accelerator has double precision.
        genes, values = expression.genes.cpu(), expression.values.cpu().double()
        self.n_cells += int((expression.totals() > 0).sum())
        self._sum.index_add_(0, genes, values)
        self._squares.index_add_(0, genes, values.square())

    @classmethod
    def pooled(cls, parts: Sequence[GeneMoments]) -> GeneMoments:
        """Moments of the cells of all parts."""
        pooled = cls(len(parts[0]._sum))
        for part in parts:
            pooled.n_cells += part.n_cells
            pooled._sum += part._sum
            pooled._squares += part._squares
        return pooled

    @property
    def mean(self) -> Tensor:
        """Mean, (G,) float32."""
        return (self._sum / max(self.n_cells, 1)).float()

    @property
    def sd(self) -> Tensor:
        """Standard deviation, (G,) float32."""
        mean = self._sum / max(self.n_cells, 1)
        return (self._squares / max(self.n_cells, 1) - mean.square()).clamp(min=0).sqrt().float()


class SparseScores(NamedTuple):
    """Z-scores of n cells, never dense: those of absent genes, and by how much the genes of a cell differ from them."""

    absent: Tensor  # (G,)
    shown: SparseCounts

    def through(self, layer: nn.Linear) -> Tensor:
        """What the layer makes of the scores, (n, H)."""
        weights = layer.weight.T.contiguous()
        shown = F.embedding_bag(
            self.shown.genes,
            weights,
            self.shown.indptr,
            mode="sum",
            per_sample_weights=self.shown.values.to(weights.dtype),
            include_last_offset=True,
        )
        return shown + layer(self.absent)


class GeneScale(nn.Module):
    r"""Counts to log expression to z-scores, comparable over panels of genes and over data sets.

    Counts are scaled so that the *measured* genes add up to what they add up to in a cell of 10,000 counts on average:
    a panel of 700 genes is not blown up to 10,000. A z-score is the mean of two: by the moments of the training data
    and by those of the data set at hand,

    .. math:: z = (1 - w)\,\frac{x - \mu}{\sqrt{\sigma^2 + 0.05^2}} + w\,\frac{x - m}{\sqrt{s^2 + 0.05^2}},
        \qquad w = \frac{1}{2}\,\frac{n}{n + 20},

    so that a data set of few cells is seen with the eyes of the training data. Genes that are not measured are 0.
    """

    abundance: Tensor
    mean: Tensor
    sd: Tensor

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("abundance", torch.full((n_genes,), 1e4 / n_genes))
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("sd", torch.ones(n_genes))

    def log_expression(self, counts: SparseCounts, measured: Tensor) -> SparseCounts:
        """log(1 + x) of scaled counts; genes that are not measured have none."""
        size = self.abundance[measured].sum() / counts.totals().clamp(min=1e-9)
        return replace(counts, values=torch.log1p(counts.values * size[counts.rows]))

    def forward(self, expression: SparseCounts, measured: Tensor, moments: GeneMoments | None = None) -> Tensor:
        """Z-scores of log expression, (n, G), by the training data alone if there are no ``moments``."""
        absent, stored = self._scores(expression, measured, moments)
        z = absent.repeat(expression.n_cells, 1)
        return z.index_put_((expression.rows, expression.genes), stored)

    def sparse(self, expression: SparseCounts, measured: Tensor, moments: GeneMoments | None = None) -> SparseScores:
        """The same z-scores, for a network whose first layer is linear in them."""
        absent, stored = self._scores(expression, measured, moments)
        return SparseScores(absent, replace(expression, values=stored - absent[expression.genes]))

    def _scores(self, expression: SparseCounts, measured: Tensor, moments: GeneMoments | None) -> tuple[Tensor, Tensor]:
        """Z-scores of absent genes, (G,), and of stored values, (nnz,)."""
        stored = _blended(self, moments, expression.values, expression.genes)
        absent = _blended(self, moments, self.mean.new_zeros(()), slice(None))
        return absent * measured, stored * measured[expression.genes]


def standardise(expression: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """Z-scores within a range; genes that hardly vary are not blown up."""
    return ((expression - mean) / (sd.square() + MIN_SD**2).sqrt()).clamp(*Z_RANGE)


def _blended(scale: GeneScale, moments: GeneMoments | None, values: Tensor, genes: Tensor | slice) -> Tensor:
    """Z-scores of values of some genes."""
    z = standardise(values, scale.mean[genes], scale.sd[genes])
    if moments is None:
        return z
    weight = 0.5 * moments.n_cells / (moments.n_cells + 20)
    mean, sd = moments.mean.to(z.device), moments.sd.to(z.device)
    return (1 - weight) * z + weight * standardise(values, mean[genes], sd[genes])


class ExpressionMLP(nn.Module):
    """Z-scores to cell states: small networks side by side, whose disagreement cancels.

    ``n_members``: number of networks, S.
    """

    def __init__(self, n_genes: int, n_hidden: int, n_output: int, *, n_members: int = 1, dropout: float = 0.3) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(_Member(n_genes, n_hidden, dropout) for _ in range(n_members))
        self.projections = nn.ModuleList(nn.Linear(n_hidden, n_output) for _ in range(n_members))

    def forward(self, z: Tensor | SparseScores, shown: Sequence[Tensor] | None = None) -> Tensor:
        """States of n cells, (S, n, H); of sparse scores not in training.

        ``shown``: genes that each network is shown in training, drawn here if `None`. Cells of one batch are shown the
        same genes, as if the others had not been measured.
        """
        drawn = [None] * len(self.members) if shown is None else shown
        return torch.stack([member(z, genes) for member, genes in zip(self.members, drawn, strict=True)])

    def draw_genes(self, like: Tensor) -> list[Tensor]:
        """Which of G genes each network is shown in training, (G,) bool; ``like``: z-scores of cells."""
        return [member.draw_genes(like) for member in self.members]

    def embed(self, states: Tensor) -> Tensor:
        """Embeddings beside texts, (S, n, D), each of unit length."""
        pairs = zip(self.projections, states, strict=True)
        return torch.stack([F.normalize(project(state), dim=-1) for project, state in pairs])


class _Member(nn.Module):
    def __init__(self, n_genes: int, n_hidden: int, dropout: float) -> None:
        super().__init__()
        self.genes = nn.Linear(n_genes, n_hidden)
        nn.init.normal_(self.genes.weight, std=0.01)
        self.norm = nn.LayerNorm(n_hidden)
        self.dropout = nn.Dropout(dropout)
        self.gene_dropout = dropout * 2 / 3

    def draw_genes(self, like: Tensor) -> Tensor:
        """Which genes a batch is shown in training."""
        return torch.rand(like.shape[-1], device=like.device) < 1 - self.gene_dropout

    def forward(self, z: Tensor | SparseScores, shown: Tensor | None = None) -> Tensor:
        if isinstance(z, SparseScores):
            return self.dropout(F.gelu(self.norm(z.through(self.genes))))
        if self.training:
            z = z * (self.draw_genes(z) if shown is None else shown) / (1 - self.gene_dropout)
        return self.dropout(F.gelu(self.norm(self.genes(z))))
