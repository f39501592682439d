"""What labels and known cell types have to do with each other, by the ontology."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.labels.ontology import CellOntology

    Ids = Collection[str]
    Lineages = Mapping[str, frozenset[str]]

__all__ = [
    "broader_types",
    "claims",
    "common_parents",
    "is_kind_of",
    "lineages",
    "nearest",
    "nearest_weights",
    "related",
    "relatives",
    "siblings",
]

# Kinds that a term may have for two of its direct children to be near relatives.
NARROW = 25

# Kinds from which on a type tells too little to describe a cell by.
BROAD = 600

# Kinds from which on a type is no parent of labels: a T cell or a fibroblast is one, a lymphocyte tells too little.
BROAD_PARENT = 200

EPITHELIAL, MALIGNANT = "CL:0000066", "CL:0001064"


def is_kind_of(kind: str, of: str, ontology: CellOntology) -> bool:
    """Whether a type is another one or one of its kinds; types that the ontology lacks are kinds of nothing else."""
    return kind == of or (kind in ontology and of in ontology.ancestors(kind))


def lineages(ids: Iterable[str], ontology: CellOntology) -> dict[str, frozenset[str]]:
    """Every type with all that it is a kind of, itself among them: `is_kind_of` for many pairs at one look-up each."""
    return {i: frozenset([i]).union(ontology.ancestors(i) if i in ontology else ()) for i in dict.fromkeys(ids)}


def siblings(identifier: str, ontology: CellOntology) -> set[str]:
    """Direct children of the narrow types that a type is a direct child of, as plasma cell and plasmablast are.

    The type itself is among them.
    """
    if identifier not in ontology:
        return set()
    kinds = {parent: ontology.descendants(parent) for parent in ontology[identifier].parents}
    return {k for parent, of in kinds.items() if len(of) < NARROW for k in of if parent in ontology[k].parents}


def related(ids: Ids, others: Sequence[str], ontology: CellOntology) -> NDArray[np.bool_]:
    """Which types a cell of these types may well be, too, (others,).

    Those that they are, contain or belong to; and, since an expression profile seldom tells, the healthy epithelium of
    a tumour and the tumour of an epithelium.
    """
    lineage = lineages([*ids, *others], ontology)
    above = frozenset[str]().union(*(lineage[i] for i in ids))

    def may_be_tumour(kind: str) -> bool:
        return kind == MALIGNANT or kind not in ontology

    tumour, epithelium = any(map(may_be_tumour, ids)), EPITHELIAL in above
    return np.array(
        [
            other in above
            or not lineage[other].isdisjoint(ids)
            or (tumour and (other == MALIGNANT or EPITHELIAL in lineage[other]))
            or (epithelium and may_be_tumour(other))
            for other in others
        ],
        dtype=bool,
    )


def claims(labels: Sequence[Ids], types: Sequence[str], ontology: CellOntology) -> tuple[NDArray[np.float32], set[int]]:
    """How the probability of known types is handed to labels.

    A type goes to the most specific label that it is a kind of; failing that, in equal parts to the labels that are
    kinds of it; failing that, to its siblings. Returned are the share of every type that each label claims, (P, C),
    columns adding up to 1 or 0; and the positions of labels that have a claim of their own, not only part of a broader
    type.
    """
    shares = np.zeros((len(labels), len(types)), dtype=np.float32)
    own: set[int] = set()
    offered = dict.fromkeys(t for ids in labels for t in ids)
    lineage = lineages([*offered, *types], ontology)
    near = {t: siblings(t, ontology) for t in offered}
    for column, known in enumerate(types):
        containing = {i: [t for t in ids if t in lineage[known]] for i, ids in enumerate(labels)}
        within = [t for terms in containing.values() for t in terms]
        specific = set(_most_specific(within, lineage))
        claimants = [i for i, terms in containing.items() if specific.intersection(terms)]
        own.update(claimants)
        if not claimants:
            claimants = [i for i, ids in enumerate(labels) if any(known in lineage[t] for t in ids)]
        if not claimants:
            claimants = [i for i, ids in enumerate(labels) if any(known in near[t] for t in ids)]
            own.update(claimants)
        shares[claimants, column] = 1 / max(len(claimants), 1)
    return shares, own


def common_parents(ids: Sequence[str], ontology: CellOntology) -> list[str]:
    """For every type one that it is a kind of, so that few of them cover all, and none is a kind of another.

    The type that most of the types are kinds of is taken first, the most specific of several, and so on with those that
    are left; types too broad to say much are none. What shares no other type is a parent of its own.
    """
    above = {
        i: [t for t in sorted(lineage) if len(ontology.descendants(t)) < BROAD_PARENT] or [i]
        for i, lineage in lineages(ids, ontology).items()
    }
    parents: dict[str, str] = {}
    while left := [i for i in above if i not in parents]:
        kinds = {t: [i for i in left if t in above[i]] for i in left for t in above[i]}
        best = min(kinds, key=lambda t: (-len(kinds[t]), len(ontology.descendants(t)), t))
        parents |= dict.fromkeys(kinds[best], best)
    return [parents[i] for i in ids]


def nearest(identifier: str, known: Ids, ontology: CellOntology) -> list[tuple[str, float]]:
    """Known types that stand in for a type, with weights that add up to 1; none if it has no relatives among them.

    The type itself; else its siblings; else its nearest broader and its broadest narrower types, half and half where
    there are both.
    """
    if identifier in known:
        return [(identifier, 1.0)]
    if identifier not in ontology:
        return []
    near = siblings(identifier, ontology)
    if known_siblings := [t for t in known if t in near]:
        return [(t, 1 / len(known_siblings)) for t in known_siblings]
    above, below = ontology.ancestors(identifier), ontology.descendants(identifier)
    lineage = lineages((t for t in known if t in above or t in below), ontology)
    broader = _most_specific([t for t in lineage if t in above], lineage)
    kinds = [t for t in lineage if t in below]
    narrower = [t for t in kinds if not any(other in lineage[t] for other in kinds if other != t)]
    groups = [group for group in (broader, narrower) if group]
    return [(t, 1 / (len(groups) * len(group))) for group in groups for t in group]


def _most_specific(ids: Ids, lineage: Lineages) -> list[str]:
    listed = list(dict.fromkeys(ids))
    return [t for t in listed if not any(t in lineage[other] for other in listed if other != t)]


def broader_types(ids: Ids, ontology: CellOntology) -> list[str]:
    """Types that a cell may be described by as well, those that say little left out."""
    found = {a for i in ids if i in ontology for a in ontology.ancestors(i)}
    return sorted(a for a in found if len(ontology.descendants(a)) < BROAD)


def relatives(labels: Sequence[Ids], candidates: Sequence[str], seen: Ids, ontology: CellOntology) -> NDArray[np.bool_]:
    """Candidates that a cell with this label may be as well, (labels, candidates) bool.

    Those that are `related`, and siblings of which no cells were ``seen``.
    """
    table = np.zeros((len(labels), len(candidates)), dtype=bool)
    for row, ids in enumerate(labels):
        near = set[str]().union(*(siblings(i, ontology) for i in ids)).difference(seen)
        table[row] = related(ids, candidates, ontology) | np.isin(candidates, list(near))
    return table


def nearest_weights(types: Sequence[str], known: Sequence[str], ontology: CellOntology) -> NDArray[np.float32]:
    """Weights of the known types that stand in for each type, (types, known); see `nearest`."""
    weights = np.zeros((len(types), len(known)), dtype=np.float32)
    for row, identifier in enumerate(types):
        for stand_in, weight in nearest(identifier, known, ontology):
            weights[row, known.index(stand_in)] = weight
    return weights
