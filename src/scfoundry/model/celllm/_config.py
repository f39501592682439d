"""The configuration of CellLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scfoundry._arguments import Count, Positive, Share, Size
from scfoundry.model._config import PlainConfig
from scfoundry.nn.favor import Stabiliser

__all__ = ["CellLMConfig", "Truncation"]

Attention = Literal["favor", "softmax"]
Padding = Literal["none", "official"]
Truncation = Literal["expression", "vocabulary"]
Pooling = Literal["cls", "mean", "contrast"]


@dataclass(frozen=True, kw_only=True)
class CellLMConfig(PlainConfig):
    """Plain values that define a CellLM; sizes are the published ones, and official files bring theirs.

    Where the released code does otherwise than a model of one's own should, the choice has a name, and official weights
    get the released one.

    Attributes
    ----------
    n_hidden, n_layers, n_heads, n_head, n_intermediate, dropout
        Transformer over genes: width D, depth, heads, width of a head, width between, dropout.
    attention
        ``"favor"`` (FAVOR+, linear in the number of genes, as published) or ``"softmax"`` (exact, quadratic).
    n_features
        Random features m of FAVOR+.
    stabiliser
        FAVOR+ subtracts the largest exponent of the keys of a ``"cell"``, or of the whole ``"batch"`` as released, by
        which an embedding depends on which cells are computed together.
    redraw_interval
        Optimiser steps of `CellLM.train` after which the random features are drawn anew; 0 for never.
    max_length
        Most positions of a cell, ``<cls>`` included; there is no table of positions, so any number will do.
    truncation
        Which genes a cell keeps that expresses more: the highest (``"expression"``), or the first ones in the order of
        the vocabulary as released (``"vocabulary"``).
    padding
        ``"none"``, or ``"official"``: cells are filled up to ``max_length`` with padding that takes its share of
        attention, as released. One token that counts as many stands for it.
    freeze_genes
        Whether the table of gene vectors stays as it is in training, as released; the paper has it learn.
    mask_ratio
        Share of the values of a cell that training hides.
    temperature
        Divisor of the cosines of the contrastive loss.
    n_contrast
        Width of the contrastive head, 0 for a model without; official files have none.
    tumour_head
        Whether there is a head that tells cells of tumours from those of normal tissue; official files have none.
    pooling
        What embeds a cell: the state of ``<cls>`` (``"cls"``), the ``"mean"`` of the states of its genes, or the
        contrastive head (``"contrast"``).

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.model.CellLMConfig(n_layers=2).n_hidden
    512
    """

    _of = "CellLM"

    n_hidden: Size = 512
    n_layers: Size = 10
    n_heads: Size = 16
    n_head: Size = 64
    n_intermediate: Size = 2048
    dropout: Share = 0.1
    attention: Attention = "favor"
    n_features: Size = 266
    stabiliser: Stabiliser = "cell"
    redraw_interval: Count = 1000
    max_length: int = 6000
    truncation: Truncation = "expression"
    padding: Padding = "none"
    freeze_genes: bool = False
    mask_ratio: float = 0.15
    temperature: Positive = 0.05
    n_contrast: Count = 512
    tumour_head: bool = True
    pooling: Pooling = "cls"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 2:
            msg = f"CellLM config: max_length must leave room for <cls> and a gene; got {self.max_length}."
            raise ValueError(msg)
        if not 0 < self.mask_ratio < 1:
            msg = f"CellLM config: mask_ratio must lie between 0 and 1; got {self.mask_ratio}. Usual: 0.15."
            raise ValueError(msg)
        if self.pooling == "contrast" and not self.n_contrast:
            msg = (
                "CellLM config: pooling='contrast' embeds by the contrastive head, and n_contrast=0 says that there is "
                "none. Use pooling='cls'."
            )
            raise ValueError(msg)
