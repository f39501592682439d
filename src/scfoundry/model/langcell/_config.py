"""The configuration of LangCell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from scfoundry._arguments import Count, Positive, Share, Size
from scfoundry.model._config import PlainConfig
from scfoundry.nn.transformer import Activation

__all__ = ["LangCellConfig", "Mixture"]

Mixture = Literal["released", "corrected"]


@dataclass(frozen=True, kw_only=True)
class LangCellConfig(PlainConfig):
    """Plain values that define a LangCell: the defaults for training your own; official files bring theirs.

    Attributes
    ----------
    n_hidden, n_layers, n_heads, n_intermediate, activation, dropout
        Transformer over genes: width D, depth, heads, width between, activation, dropout.
    max_length
        Most positions of a cell, ``<cls>`` included: a cell keeps its ``max_length - 1`` highest genes.
    n_text_hidden, n_text_layers, n_text_heads, n_text_intermediate, text_activation, text_dropout
        The same of the transformer over words.
    max_text_length
        Most word pieces of a text.
    text_vocabulary
        Word pieces in the order of their ids; learned from the texts of the training data if empty.
    n_words
        Rows of the word table; official files have two beyond the vocabulary. The size of the vocabulary if 0.
    n_latent
        Width of the space that cells and texts share.
    temperature
        Divisor of the cosine of cell and text before a softmax over texts.
    alpha
        Weight of similarity in the zero-shot mixture, between 0 and 1; the rest is that of cell-text matching, which 1
        leaves out.
    mixture
        ``"released"`` takes a softmax over texts of the match probabilities, which loses all influence where there are
        many texts; ``"corrected"`` normalises the odds of a match over texts instead.
    match_top_k
        Match only the most similar texts of a cell, which is faster with many; the others keep their share by
        similarity alone. All if 0.
    adapt, adapted_temperature
        Whether zero-shot labels are brought to agree among cells that lie together, and the divisor that calibrates the
        log probabilities then.
    mask_genes
        Share of a cell's genes that are masked in training.
    momentum, queue_size
        Of the momentum encoders, and how many of their embeddings serve as further negatives; 0 leaves both out, and so
        does ``train(contrast="divide_and_conquer")``. In short trainings from random weights a queue does harm: what is
        old is told apart before what is different.
    n_classes
        Outputs of the classification head (LangCell-CE); 0 leaves it out.
    classes, multilabel
        What the outputs stand for, and whether a cell may have several of them.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.model.LangCellConfig(n_layers=2).n_latent
    256
    """

    _of = "LangCell"

    n_hidden: Size = 256
    n_layers: Size = 6
    n_heads: Size = 8
    n_intermediate: Size = 512
    activation: Activation = "relu"
    dropout: Share = 0.02
    max_length: Size = 2048
    n_text_hidden: Size = 256
    n_text_layers: Size = 4
    n_text_heads: Size = 8
    n_text_intermediate: Size = 1024
    text_activation: Activation = "gelu"
    text_dropout: Share = 0.1
    max_text_length: Size = 512
    text_vocabulary: tuple[str, ...] = field(default=(), repr=False)
    n_words: Count = 0
    n_latent: Size = 256
    temperature: Positive = 0.05
    alpha: float = 0.2
    mixture: Mixture = "corrected"
    match_top_k: int = 0
    adapt: bool = False
    adapted_temperature: Positive = 1.0
    mask_genes: Share = 0.15
    momentum: Share = 0.995
    queue_size: Count = 0
    n_classes: Count = 0
    classes: tuple[str, ...] = field(default=(), repr=False)
    multilabel: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for width, heads in (("n_hidden", "n_heads"), ("n_text_hidden", "n_text_heads")):
            if getattr(self, width) % getattr(self, heads):
                found = f"{width}={getattr(self, width)} and {heads}={getattr(self, heads)}"
                msg = f"LangCell config: the width must be a multiple of the number of heads; got {found}. Choose one."
                raise ValueError(msg)
        if not 0 <= self.alpha <= 1:
            msg = (
                "LangCell config: alpha weighs similarity against matching and lies between 0 and 1; "
                f"got {self.alpha}. As published: alpha=0.2."
            )
            raise ValueError(msg)
        if self.match_top_k < 0:
            msg = (
                f"LangCell config: match_top_k must be at least 1, or 0 for all texts; got {self.match_top_k}. "
                "For all: match_top_k=0."
            )
            raise ValueError(msg)
