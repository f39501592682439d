"""The configuration of CellPLM: published structure, and named choices where paper and release differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scfoundry._arguments import Count, NonNegative, Share, Size
from scfoundry.model._config import PlainConfig
from scfoundry.nn.counts import LibrarySize

__all__ = ["CellPLMConfig"]

Positions = Literal["none", "sinusoid"]
Latent = Literal["gmvae", "vae", "ae"]
LatentEmbedding = Literal["argmax", "gumbel"]
Likelihood = Literal["nb", "mse"]


@dataclass(frozen=True, kw_only=True)
class CellPLMConfig(PlainConfig):
    """Plain values that define a CellPLM: the defaults for training your own; official files bring theirs.

    Where paper and released code differ, the choice has a name, and official weights get the released one.

    Attributes
    ----------
    n_hidden, n_layers, n_heads
        Width D, depth and heads of the encoder.
    latent
        ``"gmvae"`` (Gaussian mixture, the paper), ``"vae"`` (one Gaussian, the weights most people use) or ``"ae"``
        (a linear layer, used when fine-tuning for annotation).
    n_latent
        Width Z of the cell embedding.
    n_clusters
        Components of the mixture.
    n_decoder_hidden, n_decoder_layers, n_bottleneck
        Width F of the decoder, its number of layers counting the output, and the width before the output.
    n_batches, n_datasets
        Rows of the decoder's label tables; 0 leaves a table out.
    dropout
        Dropout in the embedder, the encoder's blocks and the decoder.
    positions
        ``"sinusoid"`` adds the 2-D code of the paper (a shared vector where there are no coordinates); ``"none"``
        is what the released code computes.
    library_size
        ``"cp10k"`` scales every cell to 10,000 counts before the log, as the paper says; ``"none"`` is released.
    latent_embedding
        Mixture only. ``"argmax"`` embeds a cell under its most likely component, deterministically; ``"gumbel"``
        draws the component, as the released code does even at inference.
    likelihood
        ``"nb"`` (released) or ``"mse"`` on the masked entries of log expression (paper, equation 7).
    mask_cells, mask_genes, mask_beta
        Share of cells with masked genes; mode of the share of masked genes per cell, drawn from a Beta distribution
        if ``mask_beta``.
    drop_cells, max_cells
        Share of a context's cells left out at each training step, and the most cells kept.
    masked_term
        Add the likelihood of the masked entries alone to that of all measured genes.
    kl_warmup_steps
        Gaussian only. Training steps over which the weight of the KL term grows from 0 to 1; 10,000 as released.
    latent_floor, prior_weight, categorical_weight
        Mixture only. Floor and weights of its two terms.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.model.CellPLMConfig(latent="gmvae", n_clusters=8).n_latent
    64
    """

    _of = "CellPLM"

    n_hidden: Size = 256
    n_layers: Size = 2
    n_heads: Size = 8
    latent: Latent = "vae"
    n_latent: Size = 64
    n_clusters: Size = 16
    n_decoder_hidden: Size = 256
    n_decoder_layers: Size = 2
    n_bottleneck: Size = 128
    n_batches: Count = 0
    n_datasets: Count = 0
    dropout: Share = 0.2
    positions: Positions = "sinusoid"
    library_size: LibrarySize = "cp10k"
    latent_embedding: LatentEmbedding = "argmax"
    likelihood: Likelihood = "nb"
    mask_cells: Share = 0.75
    mask_genes: Share = 0.25
    mask_beta: bool = True
    drop_cells: Share = 0.3
    max_cells: Size = 4000
    masked_term: bool = True
    kl_warmup_steps: Count = 10_000
    latent_floor: NonNegative = 5.0
    prior_weight: NonNegative = 5.0
    categorical_weight: NonNegative = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for divisor, why in ((self.n_heads, "n_heads"), (4, "4, the groups of its normalisation")):
            if self.n_hidden % divisor:
                msg = f"CellPLM config: n_hidden={self.n_hidden} must be divisible by {why} ({divisor})."
                raise ValueError(msg)
        if self.n_decoder_hidden % 4:
            msg = f"CellPLM config: n_decoder_hidden={self.n_decoder_hidden} must be divisible by 4."
            raise ValueError(msg)
