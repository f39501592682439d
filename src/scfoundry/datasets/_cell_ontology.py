"""The table of cell types that ships with the package."""

from __future__ import annotations

import pandas as pd

from scfoundry.data.labels.ontology import CellOntology

__all__ = ["cell_ontology"]


def cell_ontology() -> pd.DataFrame:
    """Cell types of the Cell Ontology, release v2026-03-26 (CC BY 4.0).

    Returns
    -------
    One row per cell type, indexed by id: ``name``, ``definition`` (empty where there is none), ``synonyms`` and
    ``parents`` (tuples; parents are the ids of the types it is directly a kind of).

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.datasets.cell_ontology().loc["CL:0000236", "name"]
    'B cell'
    """
    terms = list(CellOntology.load())
    columns = {
        field: [getattr(term, field) for term in terms] for field in ("name", "definition", "synonyms", "parents")
    }
    return pd.DataFrame(columns, index=pd.Index([term.id for term in terms], name="id"))
