"""The configuration of scPaLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scfoundry._arguments import Count, NonNegative, Positive, Share, Size
from scfoundry.model._config import PlainConfig

__all__ = ["ScPaLMConfig"]

ValueMap = Literal["linear", "mlp"]
GenePooling = Literal["mean", "max"]
Pooling = Literal["cell", "mean", "concatenated"]


@dataclass(frozen=True, kw_only=True)
class ScPaLMConfig(PlainConfig):
    """Plain values that define an scPaLM; sizes are the published ones.

    There is no code of the authors. What the paper leaves open or contradicts has a name here and a default; each says
    which it is.

    Attributes
    ----------
    n_tokens, n_hidden, n_codes
        Pathway tokens of a cell N, their width D, and codes they are chosen from C.
    n_layers, n_heads, n_intermediate, dropout
        Of each of the four transformers: depth, heads, width between, dropout. Pre-norm and GELU, which the paper does
        not say.
    n_value, n_gene
        Widths of the values and the identities of genes, which the paper does not give.
    gene_projection
        Whether every gene projects its value by a vector of its own, as published; if not, all share one ("shared first
        layer" in the paper's ablation).
    value_map
        What follows the projection of a value: a ``"linear"`` layer (the text) or an ``"mlp"`` (the algorithm).
    gene_pooling
        How genes become one vector: their ``"mean"``, or the ``"max"``; the paper does not say. With a mean and a
        linear map, tokens are two products of a sparse and a dense matrix; otherwise every value of every gene of a
        batch is in memory, which is for few genes.
    token_offsets
        Whether every token adds a learned vector to its scalar times vector. The paper does not; but a transformer that
        normalises its input, as all do, sees of such a product no more than the sign of the scalar.
    encoder, quantiser
        Whether tokens inform each other, and whether they are quantised: the paper's ablations leave them out.
    shared_head
        Whether one matrix turns the states of all tokens into the values of their genes, or each token has its own, by
        which every gene has a vector. The text allows both.
    gene_means, n_batches
        Whether reconstruction adds a mean of every gene, as it is in each of so many batches of the training data; in
        cells of others, their average. The paper has none; without them the decoder learns little else for a long
        time, and codes say which study a cell is of. The number follows from ``batch_key`` of the training data.
    affine_rate
        Learning rate scale of the affine map that all codes share; 0 for none. The paper names the map, not its form.
    commitment, quantiser_weight
        Of the distance between tokens and codes: the share beta that moves codes, not tokens, and its weight beside the
        reconstruction in stage 1; not given.
    replace_every
        Batches of stage 1 after which a code that none of them used moves to a token of the last one; 0 for never.
    kept_share
        Share of the tokens of a cell that a view of stage 2 shows, the others being reconstructed; not given.
    contrastive_weight, temperature, max_negatives
        Of the contrast of two views of a cell in stage 2: weight (0 for none), divisor of the cosines, and with how
        many cells of other clusters a cell is contrasted at most. Only the last is named, without a number.
    n_clusters, queue_size, refit_every
        Clusters (k-means) of the last ``queue_size`` cell tokens, found anew after so many steps; not given.
    exclude_cell_token
        Whether the decoder of stage 2 is not shown the cell token, as the algorithm prints it. Then reconstruction
        teaches the token nothing, though the text says that it gathers what is hidden: by default it is shown.
    pooling
        What embeds a cell: the ``"cell"`` token, or of its pathway tokens the ``"mean"``, or all ``"concatenated"``.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.model.ScPaLMConfig(n_layers=2).n_tokens
    256
    """

    _of = "scPaLM"

    n_tokens: Size = 256
    n_hidden: Size = 256
    n_codes: Size = 128
    n_layers: Size = 6
    n_heads: Size = 8
    n_intermediate: Size = 1024
    dropout: Share = 0.0
    n_value: Size = 64
    n_gene: Size = 64
    gene_projection: bool = True
    value_map: ValueMap = "linear"
    gene_pooling: GenePooling = "mean"
    token_offsets: bool = True
    encoder: bool = True
    quantiser: bool = True
    shared_head: bool = False
    gene_means: bool = True
    n_batches: Size = 1
    affine_rate: NonNegative = 10.0
    commitment: Share = 0.95
    quantiser_weight: NonNegative = 0.02
    replace_every: Count = 20
    kept_share: float = 0.5
    contrastive_weight: NonNegative = 1.0
    temperature: Positive = 0.1
    max_negatives: Size = 64
    n_clusters: Size = 20
    queue_size: Size = 4096
    refit_every: Size = 100
    exclude_cell_token: bool = False
    pooling: Pooling = "cell"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 < self.kept_share <= 1, "kept_share", "is a share of the tokens, above 0 and at most 1")
        nearest = self.n_heads * max(1, self.n_hidden // self.n_heads)
        divides = self.n_hidden % self.n_heads == 0
        self._require(divides, "n_hidden", f"must be a multiple of n_heads={self.n_heads}, such as {nearest}")
        if self.exclude_cell_token and not self.contrastive_weight:
            msg = (
                "scPaLM config: with exclude_cell_token=True the cell token learns from the contrast alone, which "
                "contrastive_weight=0 leaves out. Use a weight above 0, or exclude_cell_token=False."
            )
            raise ValueError(msg)

    def _require(self, holds: bool, name: str, rule: str) -> None:
        if not holds:
            msg = f"scPaLM config: {name} {rule}; got {getattr(self, name)}."
            raise ValueError(msg)
