"""Which texts a cell is compared with in training, and which it is neither pulled to nor pushed from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.labels.hierarchy import is_kind_of, nearest, related, siblings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.labels.ontology import CellOntology

__all__ = ["ancestors", "profile_of_type", "relatives"]

EPITHELIAL, MALIGNANT = "CL:0000066", "CL:0001064"
BROAD = 600
"""Kinds from which on a type says too little to be a training text."""


def ancestors(ids: Collection[str], ontology: CellOntology) -> list[str]:
    """Broader types that a cell may be described by as well."""
    found = {a for i in ids if i in ontology for a in ontology.ancestors(i)}
    return sorted(a for a in found if len(ontology.descendants(a)) < BROAD)


def relatives(
    labels: Sequence[Collection[str]], candidates: Sequence[str], seen: Collection[str], ontology: CellOntology
) -> NDArray[np.bool_]:
    """Candidates that a cell with this label may be as well, (labels, candidates).

    Broader and narrower types; siblings without training cells; and, since an expression profile seldom tells, the
    malignant and the healthy epithelium.
    """
    table = np.zeros((len(labels), len(candidates)), dtype=bool)
    for row, ids in enumerate(labels):
        table[row] = related(ids, candidates, ontology)
        near = set[str]().union(*(siblings(i, ontology) for i in ids))
        for column, other in enumerate(candidates):
            table[row, column] |= any(
                _tumour_and_tissue(i, other, ontology) or _tumour_and_tissue(other, i, ontology) for i in ids
            ) or (other not in seen and other in near)
    return table


def profile_of_type(types: Sequence[str], profiles: Sequence[str], ontology: CellOntology) -> NDArray[np.float32]:
    """Weights of the marker profiles that stand for each type, (types, profiles)."""
    weights = np.zeros((len(types), len(profiles)), dtype=np.float32)
    for row, identifier in enumerate(types):
        for profile, weight in nearest(identifier, profiles, ontology):
            weights[row, profiles.index(profile)] = weight
    return weights


def _tumour_and_tissue(tumour: str, tissue: str, ontology: CellOntology) -> bool:
    is_tumour = tumour == MALIGNANT or tumour not in ontology
    return is_tumour and (tissue in (EPITHELIAL, MALIGNANT) or is_kind_of(tissue, EPITHELIAL, ontology))
