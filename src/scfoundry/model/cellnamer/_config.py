"""The configuration of CellNamer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scfoundry._arguments import Positive, Share, Size
from scfoundry.model._config import PlainConfig

__all__ = ["CellNamerConfig"]


@dataclass(frozen=True, kw_only=True)
class CellNamerConfig(PlainConfig):
    """Plain values that define a CellNamer.

    Attributes
    ----------
    types
        Known types: Cell Ontology ids, or the text itself for what the ontology lacks. Those of the registered labels
        if empty.
    markers
        ``{"B cell": ["CD79A", "MS4A1"]}``: marker genes from which types are learned beside those of the registered
        labels. Kept by the ids of types and genes, so that training can go on with them.
    n_hidden, n_latent, n_members
        Width of the cell networks, width of the space shared with texts, number of networks side by side.
    n_buckets, n_text_hidden
        Rows and width of the table of hashed n-grams.
    head_rank
        Rank of the linear head that recognises known types.
    dropout
        Share of states that training hides.
    mask_genes
        Share of a cell's genes that stage 1 hides and has guessed.
    adapt, adapted_temperature
        Whether labels are brought to agree among cells that lie together, and the divisor that calibrates the log
        probabilities then.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.model.CellNamerConfig(n_hidden=64).n_latent
    96
    """

    _of = "CellNamer"
    _found = ("adapted_temperature",)

    types: tuple[str, ...] = field(default=(), repr=False)
    markers: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    n_hidden: Size = 96
    n_latent: Size = 96
    n_members: Size = 2
    n_buckets: Size = 8192
    n_text_hidden: Size = 96
    head_rank: Size = 64
    dropout: Share = 0.3
    mask_genes: Share = 0.3
    adapt: bool = True
    adapted_temperature: Positive = 1.5

    @property
    def profiles(self) -> tuple[str, ...]:
        """Types that have a marker profile, by their ids."""
        return tuple(sorted(self.markers))
