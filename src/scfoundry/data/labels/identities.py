"""Terms for what a cell is besides its type (disease, tissue, sex ...), from the ontologies CELLxGENE uses."""

from __future__ import annotations

import functools
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["IDENTITIES", "Identity", "find_identity", "has_ontologies"]

# The eight identities of a cell, in the order of its description (Zhao et al. 2024).
IDENTITIES = ("assay", "cell type", "development stage", "disease", "ethnicity", "sex", "tissue", "tissue general")

_ONTOLOGIES = {
    "assay": ("EFO",),
    "development stage": ("HsapDv", "MmusDv"),
    "disease": ("MONDO", "PATO"),
    "ethnicity": ("HANCESTRO",),
    "sex": ("PATO",),
    "tissue": ("UBERON",),
    "tissue general": ("UBERON",),
}
_ID = re.compile(r"[A-Za-z]+[:_]\d+")


class Identity(NamedTuple):
    """A term and how its label was recognised: ``"id"``, ``"name"`` or ``"synonym"``."""

    id: str
    name: str
    definition: str
    route: str


def has_ontologies() -> bool:
    """Whether the extra with the ontologies is installed."""
    return find_spec("cellxgene_ontology_guide") is not None


def find_identity(kind: str, label: str) -> Identity | None:
    """Term of a label or an id, `None` where the ontologies of this kind of identity have none."""
    label = label.strip()
    if _ID.fullmatch(label):
        identifier = label.replace("_", ":")
        names = (_terms(ontology).get(identifier) for ontology in _ONTOLOGIES[kind])
        return next((Identity(identifier, *term, "id") for term in names if term), None)
    for ontology in _ONTOLOGIES[kind]:
        for route, ids in _labels(ontology).items():
            if identifier := ids.get(label.lower(), ""):
                return Identity(identifier, *_terms(ontology)[identifier], route)
    return None


@functools.cache
def _guide() -> Any:
    try:
        from cellxgene_ontology_guide.ontology_parser import OntologyParser
    except ModuleNotFoundError as error:
        msg = (
            "Terms other than cell types come from the ontologies of the package cellxgene-ontology-guide, which is "
            'not installed: pip install "scfoundry-models[ontology]".'
        )
        raise ImportError(msg) from error
    return OntologyParser()


@functools.cache
def _terms(ontology: str) -> Mapping[str, tuple[str, str]]:
    """Name and definition by id, of the terms in use."""
    guide = _guide()
    return {
        term: (name, " ".join((guide.get_term_description(term) or "").split()))
        for name, term in guide.get_term_label_to_id_map(ontology).items()
        if not guide.is_term_deprecated(term)
    }


@functools.cache
def _labels(ontology: str) -> Mapping[str, Mapping[str, str]]:
    """Ids by lower-case label; empty where several terms share a synonym."""
    guide = _guide()
    synonyms: dict[str, str] = {}
    for term in _terms(ontology):
        for synonym in guide.get_term_synonyms(term):
            label = synonym.lower()
            synonyms[label] = term if synonyms.get(label, term) == term else ""
    return {"name": {name.lower(): term for term, (name, _) in _terms(ontology).items()}, "synonym": synonyms}
