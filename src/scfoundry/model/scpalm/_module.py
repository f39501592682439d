"""scPaLM: pathway tokens of a codebook (stage 1), and a token of the cell (stage 2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from scfoundry.model._module import FoundationModule
from scfoundry.model.scpalm._embedding import PathwayEmbedding
from scfoundry.nn.quantiser import Quantised, VectorQuantiser
from scfoundry.nn.transformer import TransformerLayer

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.scpalm._batch import Expression
    from scfoundry.model.scpalm._config import ScPaLMConfig
    from scfoundry.model.scpalm._embedding import GeneTables

__all__ = ["STAGES", "ScPaLMModule", "View"]

EPS = 1e-5
# Of the weights of the head at first: reconstruction starts near the means of genes.
HEAD_SCALE = 0.01
# Stage -> parts that learn in it.
STAGES = {1: ("embedding", "encoder", "quantiser", "decoder"), 2: ("cell_encoder", "cell_decoder")}


class Transformer(nn.Module):
    """Layers that every token passes, and a last norm."""

    def __init__(self, config: ScPaLMConfig) -> None:
        super().__init__()
        width, sizes = config.n_hidden, (config.n_heads, config.n_intermediate)
        how: dict[str, Any] = {"activation": "gelu", "dropout": config.dropout, "eps": EPS, "pre_norm": True}
        self.layers = nn.ModuleList(TransformerLayer(width, *sizes, **how) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, n_wanted: int | None = None) -> Tensor:
        """Tokens (B, L, D) to as many, or to the first ``n_wanted``."""
        *first, last = self.layers
        for layer in first:
            x = layer(x)
        return self.norm(last(x, n_wanted=n_wanted))


class Head(nn.Module):
    """States of tokens (B, N, D) to the values of their genes (B, N, s), by a matrix for all tokens or one for each."""

    def __init__(self, config: ScPaLMConfig, genes_per_token: int) -> None:
        super().__init__()
        n_matrices = 1 if config.shared_head else config.n_tokens
        self.weight = nn.init.normal_(
            nn.Parameter(torch.empty(n_matrices, config.n_hidden, genes_per_token)), std=HEAD_SCALE
        )
        self.bias = nn.Parameter(torch.zeros(n_matrices, genes_per_token))

    def forward(self, states: Tensor) -> Tensor:
        """Values."""
        if len(self.weight) == 1:
            return states @ self.weight[0] + self.bias
        return torch.einsum("bnd,nds->bns", states, self.weight) + self.bias


class Decoder(nn.Module):
    """Tokens and their positions to log expression: token j has s genes, from number s j of the vocabulary.

    After quantisation a token is no more than its code: without positions, tokens of one code would have the same
    genes.
    """

    def __init__(self, config: ScPaLMConfig, n_genes: int) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.positions = nn.init.normal_(nn.Parameter(torch.empty(config.n_tokens, config.n_hidden)))
        self.transformer = Transformer(config)
        self.head = Head(config, math.ceil(n_genes / config.n_tokens))
        # Without these, the decoder would learn for a long time what is alike in all cells, and little else.
        self.means = nn.Parameter(torch.zeros(config.n_batches, n_genes)) if config.gene_means else None

    def forward(self, tokens: Tensor, cell: Tensor | None = None, batches: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D), and one of the cell (B, D) that they may look at, to log expression (B, G).

        ``batches``: numbers of the batches of training data that cells are of, (B,); of others if `None`.
        """
        x = tokens + self.positions
        x = x if cell is None else torch.cat([x, cell[:, None]], 1)
        states = self.transformer(x, n_wanted=tokens.shape[1])
        found = self.head(states).flatten(1)[:, : self.n_genes]
        if self.means is None:
            return found
        return found + (self.means.mean(0) if batches is None else self.means[batches])

    @torch.no_grad()
    def start(self, means: Tensor) -> None:
        """Begin with the mean log expression of genes in every batch, (n_batches, G)."""
        if self.means is not None and not self.means.any():
            self.means.copy_(means)


class View(NamedTuple):
    """What the encoder of stage 2 makes of some of the tokens of cells."""

    cell: Tensor  # (B, D), state of the cell token
    kept: Tensor  # (B, K, D), states of the tokens that were shown
    places: Tensor  # (B, K), which those are, ascending


class CellEncoder(nn.Module):
    """Pathway tokens, or some of them, to a token of the cell (algorithm 3)."""

    def __init__(self, config: ScPaLMConfig) -> None:
        super().__init__()
        self.positions = nn.init.normal_(nn.Parameter(torch.empty(config.n_tokens, config.n_hidden)))
        self.cell = nn.init.normal_(nn.Parameter(torch.empty(config.n_hidden)))
        self.transformer = Transformer(config)

    def _with_cell(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.cell.expand(len(tokens), 1, -1), tokens], 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """State of the cell token among all others, (B, N, D) to (B, D)."""
        return self.transformer(self._with_cell(tokens + self.positions), n_wanted=1)[:, 0]

    def view(self, tokens: Tensor, places: Tensor) -> View:
        """States of the cell token and of tokens at some places, (B, N, D) and (B, K)."""
        kept = (tokens + self.positions).gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))
        states = self.transformer(self._with_cell(kept))
        return View(states[:, 0], states[:, 1:], places)


class CellDecoder(nn.Module):
    """States of some tokens, and of the cell token, to log expression of all genes (algorithm 3)."""

    def __init__(self, config: ScPaLMConfig, n_genes: int) -> None:
        super().__init__()
        self.n_tokens, self.exclude_cell_token = config.n_tokens, config.exclude_cell_token
        self.hidden = nn.init.normal_(nn.Parameter(torch.empty(config.n_hidden)))
        self.decoder = Decoder(config, n_genes)

    def forward(self, view: View, batches: Tensor | None = None) -> Tensor:
        """Log expression, (B, G); ``batches`` as in `Decoder`."""
        slots = self.hidden.to(view.kept).expand(len(view.kept), self.n_tokens, -1)
        slots = slots.scatter(1, view.places[..., None].expand_as(view.kept), view.kept)
        return self.decoder(slots, None if self.exclude_cell_token else view.cell, batches)


class ScPaLMModule(FoundationModule):
    """A cell is N tokens of a codebook, and a token of the whole cell."""

    lora_heads = ("quantiser", "decoder.head", "cell_decoder.decoder.head")

    def __init__(self, config: ScPaLMConfig, n_genes: int) -> None:
        super().__init__()
        self.config, self.n_genes = config, n_genes
        self.embedding = PathwayEmbedding(config, n_genes)
        self.encoder: Any = Transformer(config) if config.encoder else nn.Identity()
        codebook = config.n_codes, config.n_hidden
        how: dict[str, Any] = {"beta": config.commitment, "affine_rate": config.affine_rate}
        self.quantiser: Any = VectorQuantiser(*codebook, **how) if config.quantiser else nn.Identity()
        self.decoder = Decoder(config, n_genes)
        self.cell_encoder = CellEncoder(config)
        self.cell_decoder = CellDecoder(config, n_genes)

    def encode(self, cells: Expression, tables: GeneTables | None = None) -> Tensor:
        """Tokens before they are quantised, (B, N, D)."""
        return self.encoder(self.embedding(cells, tables))

    def quantise(self, z: Tensor) -> Quantised:
        """Tokens of the codebook; where there is none, the same tokens, all with the code 0."""
        if not self.config.quantiser:
            return Quantised(z, z.new_zeros(z.shape[:-1], dtype=torch.int64), z.new_zeros(()))
        return self.quantiser(z)

    def pathway_tokens(self, cells: Expression, tables: GeneTables | None = None) -> Quantised:
        """Pathway tokens of cells; in full precision, since rounding would decide which code is the nearest."""
        with torch.autocast(self.device.type, enabled=False):
            return self.quantise(self.encode(cells, tables))

    def reconstruct(self, cells: Expression, tables: GeneTables | None = None) -> Tensor:
        """Log expression of all genes by the pathway tokens (stage 1), (B, G)."""
        return self.decoder(self.pathway_tokens(cells, tables).vectors)

    def pool(self, tokens: Tensor) -> Tensor:
        """Embeddings of cells by their pathway tokens, (B, N, D) to (B, Z)."""
        if self.config.pooling == "mean":
            return tokens.mean(1)
        return self.cell_encoder(tokens) if self.config.pooling == "cell" else tokens.flatten(1)

    def embed(self, cells: Expression) -> Tensor:
        """Embeddings of cells, (B, Z)."""
        return self.pool(self.pathway_tokens(cells).vectors)
