"""The configuration of Celler."""

from __future__ import annotations

from dataclasses import dataclass, field

from scfoundry._arguments import Count, Share, Size
from scfoundry.data.tokens.bins import FEWEST_BINS, Ties, Truncation
from scfoundry.model._config import PlainConfig

__all__ = ["MOST_BINS", "CellerConfig"]

# Value of <cls>: that of padding when pre-trained and asked without training, 0 when fine-tuned.
CLS_VALUES = (-2, 0)
# Values are read up to 512.
MOST_BINS = 513


@dataclass(frozen=True, kw_only=True)
class CellerConfig(PlainConfig):
    """Plain values that define a Celler; the defaults are the published structure, official files bring theirs.

    Attributes
    ----------
    n_hidden, n_layers, n_heads, n_intermediate, dropout
        Transformer over genes: width D, depth, heads, width between, dropout.
    n_bins
        Bins of expression, that of zeros included.
    ties
        Bin of values that several would suit: ``"mid"``, ``"low"``, ``"high"``, or ``"random"`` as published, though
        drawn by the genes of the cell, so that a cell always has the same. See `sf.pp.bin_expression`.
    max_length
        Most positions of a cell, ``<cls>`` included.
    truncation
        Which genes a cell keeps that expresses more: the highest (``"expression"``), those that vary most among the
        cells that are read together and then the highest (``"hvg"``), or some drawn by the genes of the cell
        (``"random"``, as published).
    cls_value
        Value at ``<cls>``: -2 without fine-tuning, 0 with; another than in training changes embeddings.
    mask_ratio
        Share of the values that training hides; of several one is drawn for every batch (published: 0.25, 0.5, 0.75).
    mvc
        Whether values are also predicted from the cell's embedding and the gene alone (GEPC).
    explicit_zeros
        Whether genes that are measured and not expressed are read, too, and whether a gene is expressed predicted
        apart from how much.
    n_batches, batches
        Number of batches in training and their names; 0 for a model without. With them, decoders are told the batch.
    batch_tokens, domain_norm, discriminator
        Of a model with batches: whether decoders know the batch, whether inputs are normalised batch by batch (cells of
        other batches by the mean of all), and whether a head guesses the batch, against whose gradient cells learn.
    n_layers_cls
        Linear layers of the classification head and the discriminator, the last included.
    n_classes, classes, class_counts
        Outputs of the classification head, what they stand for, and of how many cells each was learned; 0 for none.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.model.CellerConfig(n_layers=2).n_hidden
    512
    """

    _of = "Celler"

    n_hidden: Size = 512
    n_layers: Size = 12
    n_heads: Size = 8
    n_intermediate: Size = 512
    dropout: Share = 0.2
    n_bins: int = 51
    ties: Ties = "mid"
    max_length: int = 1200
    truncation: Truncation = "expression"
    cls_value: int = -2
    mask_ratio: float | tuple[float, ...] = 0.15
    mvc: bool = True
    explicit_zeros: bool = False
    n_batches: Count = 0
    batches: tuple[str, ...] = field(default=(), repr=False)
    batch_tokens: bool = True
    domain_norm: bool = True
    discriminator: bool = True
    n_layers_cls: Size = 3
    n_classes: Count = 0
    classes: tuple[str, ...] = field(default=(), repr=False)
    class_counts: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_hidden % self.n_heads:
            found = f"n_hidden={self.n_hidden} and n_heads={self.n_heads}"
            msg = f"Celler config: the width must be a multiple of the number of heads; got {found}. Choose one."
            raise ValueError(msg)
        if self.cls_value not in CLS_VALUES:
            msg = (
                f"Celler config: cls_value must be -2 (not fine-tuned) or 0 (fine-tuned); got {self.cls_value}. "
                "Default: cls_value=-2."
            )
            raise ValueError(msg)
        if not FEWEST_BINS <= self.n_bins <= MOST_BINS:
            msg = f"Celler config: n_bins must be from {FEWEST_BINS} to {MOST_BINS}; got {self.n_bins}. Published: 51."
            raise ValueError(msg)
        if self.max_length < 2:
            msg = f"Celler config: max_length must leave room for <cls> and a gene; got {self.max_length}."
            raise ValueError(msg)
        if not all(0 < ratio < 1 for ratio in self.mask_ratios):
            msg = f"Celler config: mask_ratio must lie between 0 and 1; got {self.mask_ratio}. Published: 0.15."
            raise ValueError(msg)
        for number, names in (("n_batches", "batches"), ("n_classes", "classes")):
            if len(getattr(self, names)) != getattr(self, number):
                found = f"{number}={getattr(self, number)} and {len(getattr(self, names))} {names}"
                msg = f"Celler config: {names} must name each of {number}; got {found}."
                raise ValueError(msg)

    @property
    def mask_ratios(self) -> tuple[float, ...]:
        """Shares to hide that a batch draws one of."""
        return self.mask_ratio if isinstance(self.mask_ratio, tuple) else (self.mask_ratio,)
