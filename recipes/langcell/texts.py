"""What is true of a cell, in the words of the Cell Ontology: a column of ``obs`` for every text that may be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import scfoundry as sf
from scfoundry.data.labels.ontology import CellOntology

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

__all__ = ["add_texts"]

# Enough for all texts of the four broader types that the narrowest type of the corpus has, and more for its own.
N_COLUMNS = 40


def add_texts(adata: AnnData, key: str = "cell_type") -> list[str]:
    """Write columns with the texts of every cell, and return their names.

    Training draws one of the columns, and none of a cell's texts is ever its negative. So the columns hold the texts of
    a cell's type (name, definition, synonyms, parents) and those of the broader types that other cells have; where
    these leave room, its own texts again, its description with the definition first.
    """
    terms = sorted(adata.obs[key].unique())
    texts = {term: texts_of(term, terms) for term in terms}
    columns = [f"text_{i}" for i in range(N_COLUMNS)]
    for i, column in enumerate(columns):
        adata.obs[column] = adata.obs[key].map({term: own[i] for term, own in texts.items()}).to_numpy()
    return columns


def texts_of(term: str, others: Iterable[str]) -> list[str]:
    """As many texts as there are columns."""
    ontology = CellOntology.load()
    if term not in ontology:
        return [f"cell type: {term}."] * N_COLUMNS
    own = prompts(term)
    broader = [text for other in sorted(ontology.ancestors(term).intersection(others)) for text in prompts(other)]
    return [*np.resize(own, N_COLUMNS - len(broader)), *broader]


def prompts(term: str) -> list[str]:
    """Definition, name, synonyms, parents."""
    ontology = CellOntology.load()
    described = sf.tl.describe([term])["text"].iloc[0]
    return list(dict.fromkeys([described, *ontology.prompts(ontology[term])]))
