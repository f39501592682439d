"""Labels as models read them: a name, its texts, its term and its markers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_LABEL", "Label"]

NO_LABEL = ("", "unknown", "unassigned", "nan", "none", "na", "n/a", "<na>")
"""Words, in lower case, that say no more than a missing label: it may have been turned into text."""


@dataclass(frozen=True)
class Label:
    """What a cell may be called.

    Attributes
    ----------
    name
        As the user wrote it.
    texts
        What a text encoder reads, the most telling text first: ``"cell type: {name}. {definition}"``.
    term
        Identifier in the Cell Ontology, ``"CL:0000236"``; `None` where the label stands for no term.
    markers
        Genes that cells of this label express, by the user's own knowledge, as ids of a model's vocabulary.

    Examples
    --------
    >>> Label("B cells", ("cell type: B cell.",), term="CL:0000236").name
    'B cells'
    """

    name: str
    texts: tuple[str, ...]
    term: str | None = None
    markers: tuple[str, ...] = ()
