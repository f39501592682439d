"""From the label of a cell type to its term: as spelled, by a short form, or the nearest term that is surely right."""

from __future__ import annotations

import re
from itertools import combinations, product
from typing import TYPE_CHECKING, Literal

from scfoundry.data.labels.forms import MARKER_SIGNS, key_of, label_key, tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from scfoundry.data.labels.forms import Key

__all__ = ["LabelIndex", "Route"]

Route = Literal["id", "name", "alias", "synonym", "broader"]

# In the table of aliases: a short form with several common meanings, which resolves to nothing.
AMBIGUOUS = "-"

_ID = re.compile(r"(?:https?://\S*/)?CL[:_](\d{7})", re.IGNORECASE)
# What is not one type of cell has no nearest term either.
_NO_TYPE = """
    ambient ambiguous contaminated contamination debri doublet empty hybrid mixed mixture multiplet na nan none
    quality rest unassigned unclassified undefined undetermined unidentified unknown unlabeled unspecified
"""
# Words that leave a cell what it is: a term without them is right, only less precise.
_QUALIFIERS = """
    activated adult associated bronchial cardiac cluster colonic cycling dividing early fetal group gut healthy heart
    hepatic human inflammatory intermediate intestinal kappa kidney lambda late liver lung mature mitotic mouse nasal
    nonmalignant nonnasal normal other peripheral primary proliferating proliferative pulmonary reactive renal
    resident resting skin splenic state stressed subset systemic tissue
"""
_PARTS = re.compile(r"\s+-+\s+|:\s+|\s*[()\[\];]\s*|,\s+")
_ALTERNATIVES = re.compile(r"(?<!\d)\s*/|/\s*(?!\d)|&|\s(?:and|or|\+)\s", re.IGNORECASE)
# A number ends any label; a letter only after a plural, because in "memory B" it is the type.
_CLUSTER = re.compile(r"[\s_.-]+(?:\d{1,2}|(?<=s[\s_.-])[A-Z])$")


class LabelIndex:
    """Terms by what labels say, from their names, and from pairs of a synonym or short form and the id it stands for.

    A short form may stand for `AMBIGUOUS`, none. ``replaced`` leads from former ids to those now in use, and ``is_a``
    says whether the first term is the second or one of its subtypes.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        *,
        synonyms: Iterable[tuple[str, str]],
        aliases: Iterable[tuple[str, str]],
        replaced: Mapping[str, str],
        is_a: Callable[[str, str], bool],
    ) -> None:
        self._ids = {**replaced, **{term: term for term in names}}
        self._spelled = {name.lower(): term for term, name in names.items()}
        # Ontologies list single letters as synonyms (P cell, IC neuron); common ones stand in the table of aliases.
        telling = ((key, term) for key, term in _keyed(synonyms) if len("".join(key)) > 3)
        # A name counts first as spelled; in any other form the usage of the field does.
        self._routes: dict[Route, dict[Key, str]] = {
            "alias": _settle(_keyed(aliases)),
            "name": _settle(_keyed((name, term) for term, name in names.items())),
            "synonym": _settle(telling),
        }
        self._no_type, self._qualifiers = frozenset(_NO_TYPE.split()), frozenset(_QUALIFIERS.split())
        self._is_a = is_a

    def find(self, label: str) -> tuple[str, Route] | None:
        """Id of the term of a label and how it was found."""
        label = label.strip()
        if identifier := _ID.fullmatch(label):
            term = self._ids.get(f"CL:{identifier[1]}")
            return None if term is None else (term, "id")
        if found := self._as_spelled(label):
            return None if found[0] == AMBIGUOUS else found
        if not self._no_type.isdisjoint(tokens(label)):
            return None
        term = self._broader(label)
        return None if term is None else (term, "broader")

    def _as_spelled(self, label: str) -> tuple[str, Route] | None:
        if label.lower() in self._spelled:
            return self._spelled[label.lower()], "name"
        return self._by_key(label_key(label))

    def _by_key(self, key: Key) -> tuple[str, Route] | None:
        for route, terms in self._routes.items():
            if key in terms:
                return terms[key], route
        return None

    def _broader(self, label: str) -> str | None:
        """Term of which the label names a state, a cluster, a subtype that the ontology does not know, or a union."""
        head, *others = [part for part in _PARTS.split(label) if part] or [""]
        if others:
            return self._most_specific(self._part(head), [self._part(other) for other in others])
        alternatives = _ALTERNATIVES.split(label)
        if len(alternatives) > 1:
            return self._most_general([self._part(part) for part in alternatives])
        return self._unqualified(label)

    def _part(self, label: str) -> str | None:
        found = self.find(label)
        return None if found is None else found[0]

    def _most_specific(self, head: str | None, others: list[str | None]) -> str | None:
        """Term of the head, refined by what follows it; nothing where the two name different types."""
        if head is None:
            return None
        for other in others:
            if other is None or self._is_a(head, other):
                continue
            if not self._is_a(other, head):
                return None
            head = other
        return head

    def _most_general(self, terms: list[str | None]) -> str | None:
        """The one among the terms that all others are subtypes of."""
        known = [term for term in terms if term is not None]
        if len(known) < len(terms):
            return None
        return next((term for term in known if all(self._is_a(other, term) for other in known)), None)

    def _unqualified(self, label: str) -> str | None:
        """Term of a label without cluster numbers, markers and words for states."""
        numberless = _CLUSTER.sub("", label)
        if numberless != label and (found := self._as_spelled(numberless)):
            return None if found[0] == AMBIGUOUS else found[0]
        words = tokens(numberless)
        markers = [place for place, word in enumerate(words) if word.endswith(MARKER_SIGNS)]
        states = [place for place, word in enumerate(words) if word in self._qualifiers]
        # As few words as possible are dropped, and states before markers: a cycling CD8 T cell is a CD8 T cell.
        for n_markers, n_states in product(range(len(markers) + 1), range(len(states) + 1)):
            terms = {
                found[0]
                for dropped in product(combinations(markers, n_markers), combinations(states, n_states))
                if (found := self._by_key(key_of(_without(words, {*dropped[0], *dropped[1]}))))
            }
            if AMBIGUOUS in terms:
                return None
            # The label is all of these at once: the one that is a kind of the others says most.
            for term in terms:
                if all(self._is_a(term, other) for other in terms):
                    return term
        return None


def _without(words: Key, places: set[int]) -> Key:
    return tuple(word for place, word in enumerate(words) if place not in places and word != "cell")


def _keyed(pairs: Iterable[tuple[str, str]]) -> list[tuple[Key, str]]:
    return [(label_key(label), term) for label, term in pairs]


def _settle(pairs: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    """Terms by key; a key that stands for several terms is ambiguous."""
    terms: dict[Key, str] = {}
    for key, term in pairs:
        terms[key] = term if terms.get(key, term) == term else AMBIGUOUS
    return terms
