"""Genes of a cell, in whatever order, as N pathway tokens (algorithm 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from scfoundry.nn.processes import share

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.scpalm._batch import Expression
    from scfoundry.model.scpalm._config import ScPaLMConfig

__all__ = ["GeneTables", "PathwayEmbedding"]

NEGATIVE_SLOPE = 0.01
# Of what genes start as: small, so that steps of an optimiser of a usual rate change it.
SCALE = 0.02
# Of the offsets of tokens at first, beside scalars of about 1: a code is to say more of the cell than of the position.
OFFSET_SCALE = 0.2


class GeneTables(NamedTuple):
    """What a gene adds to the N scalars of a cell."""

    slope: Tensor  # (G, N), per unit of log expression
    presence: Tensor  # (G, N), for being expressed, or for not


class PathwayEmbedding(nn.Module):
    r"""Every expressed gene becomes a vector, their mean N scalars, and each of those a token.

    A gene with the value x has :math:`v = \operatorname{LeakyReLU}(x P)`, and :math:`E = W [\alpha \odot v + M(v);\, g]
    + c` with its own :math:`P, \alpha, g`. Genes that are not expressed are pooled first, and count as one gene:

    .. math:: f = \frac{\sum_{x_i > 0} E_i + z_0}{n + 1}

    Since :math:`x \ge 0` the activation scales with x, and with a linear M so does everything that depends on it: of
    each gene a slope and a presence term are left, and the sum over genes is a product of a sparse and a dense matrix.
    `literal` computes the same gene by gene.
    """

    started: Tensor

    def __init__(self, config: ScPaLMConfig, n_genes: int) -> None:
        super().__init__()
        self.n_genes, width = n_genes, config.n_value
        n_projections = n_genes if config.gene_projection else 1
        self.projection = nn.init.normal_(nn.Parameter(torch.empty(n_projections, width)), std=SCALE)
        self.alpha = nn.Parameter(torch.ones(n_projections, width))
        self.genes = nn.init.normal_(nn.Parameter(torch.empty(n_genes, config.n_gene)), std=SCALE)
        self.value_map: Any = nn.Linear(width, width)
        if config.value_map == "mlp":
            self.value_map = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(NEGATIVE_SLOPE), self.value_map)
        self.value_scalars = nn.Linear(width, config.n_tokens)
        self.gene_scalars = nn.Linear(config.n_gene, config.n_tokens, bias=False)
        self.tokens = nn.init.normal_(nn.Parameter(torch.empty(config.n_tokens, config.n_hidden)))
        # A norm of a layer would leave no more of a scalar times a vector than the sign of the scalar.
        self.offsets = (
            nn.init.normal_(nn.Parameter(torch.empty(self.tokens.shape)), std=OFFSET_SCALE)
            if config.token_offsets
            else None
        )
        self.register_buffer("started", torch.tensor(False))
        self.is_linear = config.value_map == "linear" and config.gene_pooling == "mean"
        self.takes_max = config.gene_pooling == "max"

    def tables(self) -> GeneTables:
        """Slopes and presence terms of all genes, where both pooling and value map are linear."""
        activated = F.leaky_relu(self.projection, NEGATIVE_SLOPE)
        mapped = self.alpha * activated + F.linear(activated, self.value_map.weight)
        slope = F.linear(mapped, self.value_scalars.weight).expand(self.n_genes, -1)
        constant = self.value_scalars(self.value_map.bias)
        return GeneTables(slope, self.gene_scalars(self.genes) + constant)

    def scalars(self, cells: Expression, tables: GeneTables | None = None) -> Tensor:
        """The N scalars of cells, (B, N); ``tables``: those of the current weights, to compute them once."""
        if not self.is_linear:
            return self.literal(cells)
        slope, presence = tables or self.tables()
        starts = cells.offsets[:-1]
        by_value = F.embedding_bag(cells.genes, slope, starts, mode="sum", per_sample_weights=cells.values.to(slope))
        present = F.embedding_bag(cells.genes, presence, starts, mode="sum")
        n_expressed = cells.n_expressed[:, None].to(slope)
        n_absent = self.n_genes - n_expressed
        absent = (presence.sum(0) - present) / n_absent.clamp(min=1)
        # Where every gene is expressed, nothing stands for the others.
        return (by_value + present + absent * (n_absent > 0)) / (n_expressed + (n_absent > 0))

    def literal(self, cells: Expression) -> Tensor:
        """The same as the algorithm has it, gene by gene, (B, N); any value map and pooling."""
        x = cells.dense().to(self.alpha)
        v = F.leaky_relu(x[..., None] * self.projection, NEGATIVE_SLOPE)  # (B, G, d1)
        e = self.value_scalars(self.alpha * v + self.value_map(v)) + self.gene_scalars(self.genes)  # (B, G, N)
        expressed = (x > 0)[..., None]
        absent = self._pool(e, ~expressed)
        has_absent = ~expressed.all(1)
        members = torch.cat([e, absent[:, None]], 1)
        return self._pool(members, torch.cat([expressed, has_absent[:, None]], 1))

    def _pool(self, e: Tensor, members: Tensor) -> Tensor:
        """Mean or largest values of the members among genes, (B, G, N) and (B, G, 1) to (B, N); 0 of none."""
        if self.takes_max:
            largest = e.masked_fill(~members, -torch.inf).amax(1)
            return torch.where(members.any(1), largest, 0)
        return (e * members).sum(1) / members.sum(1).clamp(min=1)

    @torch.no_grad()
    def start(self, cells: Expression) -> None:
        """Scale the scalars of a first batch to mean 0 and variance 1, by the weights that make them; only once.

        They are means over thousands of genes, in which cells hardly differ at first: all would have the same tokens.
        """
        if self.started:
            return
        scalars = self.scalars(cells)
        spread = scalars.std(0, correction=0).clamp(min=1e-6)
        for layer in (self.value_scalars, self.gene_scalars):
            layer.weight /= spread[:, None]
        self.value_scalars.bias.copy_((self.value_scalars.bias - scalars.mean(0)) / spread)
        share(self.value_scalars.weight, self.gene_scalars.weight, self.value_scalars.bias)
        self.started.fill_(True)

    def forward(self, cells: Expression, tables: GeneTables | None = None) -> Tensor:
        """Tokens of cells, (B, N, D)."""
        tokens = self.scalars(cells, tables)[..., None] * self.tokens
        return tokens if self.offsets is None else tokens + self.offsets
