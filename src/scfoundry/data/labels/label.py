"""Labels as models read them: a name, its texts, its term and its markers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_LABEL", "Label"]

# Words, in lower case, that say no more than a missing label: it may have been turned into text.
NO_LABEL = ("", "unknown", "unassigned", "nan", "none", "na", "n/a", "<na>")


@dataclass(frozen=True)
class Label:
    """What a cell may be called."""

    name: str  # as the user wrote it
    texts: tuple[str, ...]  # for a text encoder, the most telling first: "cell type: {name}. {definition}"
    term: str | None = None  # id in the Cell Ontology, "CL:0000236"; None where the label stands for no term
    markers: tuple[str, ...] = ()  # genes that the user knows such cells to express, as ids of a vocabulary
