"""The Cell Ontology: cell types with their definitions, and the terms that labels of data sets stand for."""

from __future__ import annotations

import functools
import gzip
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from scfoundry.data.labels.index import LabelIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scfoundry.data.labels.index import Route

__all__ = ["CellOntology", "CellType", "Match"]


@dataclass(frozen=True)
class CellType:
    """A term of the Cell Ontology."""

    id: str  # "CL:0000236"
    name: str  # "B cell"
    definition: str = ""  # empty where the ontology has none
    synonyms: tuple[str, ...] = ()  # other names with the same meaning
    parents: tuple[str, ...] = ()  # ids of the terms that it is directly a kind of
    former_ids: tuple[str, ...] = ()  # of retired terms that it replaced


@dataclass(frozen=True)
class Match:
    """The term that a label stands for.

    ``route`` is ``"id"``, ``"name"``, ``"alias"`` (a common label or short form of the field), ``"synonym"``, or
    ``"broader"``: the label says more than the term, a state, a cluster, a marker that the ontology has no term for.
    """

    term: CellType
    route: Route


class CellOntology:
    """Cell types (parents among them), and pairs of a further label and the id it stands for.

    The id is ``"-"`` for a label that means several types.

    >>> ontology = CellOntology.load()
    >>> ontology.resolve("CD14+ Monocytes").name
    'CD14-positive monocyte'
    >>> ontology.match("MAIT").route
    'alias'
    """

    def __init__(self, terms: Iterable[CellType], *, aliases: Iterable[tuple[str, str]] = ()) -> None:
        self._terms = {term.id: term for term in terms}
        self._aliases = tuple(aliases)
        self._ancestors: dict[str, frozenset[str]] = {}

    @classmethod
    @functools.cache
    def load(cls) -> CellOntology:
        """Load the table that ships with the package, once."""
        folder = resources.files("scfoundry.data")
        table = gzip.decompress(folder.joinpath("cell_ontology.tsv.gz").read_bytes()).decode()
        aliases = folder.joinpath("cell_type_aliases.tsv").read_text(encoding="utf-8")
        return cls(_read_terms(table), aliases=_read_aliases(aliases))

    def __len__(self) -> int:
        return len(self._terms)

    def __iter__(self) -> Iterator[CellType]:
        return iter(self._terms.values())

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._terms

    def __getitem__(self, identifier: str) -> CellType:
        if identifier not in self._terms:
            msg = (
                f"{identifier!r} is not among the {len(self):,} ids of the ontology. Labels and retired ids are found "
                f"by `CellOntology.load().resolve({identifier!r})`."
            )
            raise KeyError(msg)
        return self._terms[identifier]

    def resolve(self, label: str) -> CellType | None:
        """Term that a label stands for, `None` where that is not certain.

        Ids, names, synonyms and the common short forms of the field are known in any case, number, word order and
        spelling of markers (``"CD14+"``, ``"CD14-positive"``, ``"CD14pos"``). A label that says more than any term
        resolves to the nearest term that is surely right (``"SPP1+ Macrophages 2"`` to macrophage), and a union of
        types to the one that covers the others (``"Microglia/Macrophage"``) or to none (``"T cells & NK cells"``).
        """
        found = self.match(label)
        return None if found is None else found.term

    def match(self, label: str) -> Match | None:
        """Term that a label stands for and how it was found; `None` where that is not certain."""
        found = self._index.find(label)
        return None if found is None else Match(self._terms[found[0]], found[1])

    def ancestors(self, identifier: str) -> frozenset[str]:
        """Ids of all terms that a term is a kind of, itself left out."""
        if identifier not in self._ancestors:
            parents = self[identifier].parents
            self._ancestors[identifier] = frozenset(parents).union(*(self.ancestors(parent) for parent in parents))
        return self._ancestors[identifier]

    def descendants(self, identifier: str) -> frozenset[str]:
        """Ids of all terms that are a kind of a term, itself left out."""
        return self._descendants[self[identifier].id]

    @functools.cached_property
    def _descendants(self) -> dict[str, frozenset[str]]:
        below: dict[str, set[str]] = {identifier: set() for identifier in self._terms}
        for identifier in self._terms:
            for ancestor in self.ancestors(identifier):
                below[ancestor].add(identifier)
        return {identifier: frozenset(kinds) for identifier, kinds in below.items()}

    @functools.cached_property
    def _index(self) -> LabelIndex:
        return LabelIndex(
            {term.id: term.name for term in self},
            synonyms=((synonym, term.id) for term in self for synonym in term.synonyms),
            aliases=self._aliases,
            replaced={former: term.id for term in self for former in term.former_ids},
            is_a=lambda kind, of: kind == of or of in self.ancestors(kind),
        )

    def text(self, term: CellType) -> str:
        """Text of a cell type as a text encoder reads it: "cell type: B cell. A lymphocyte of B lineage that ..."."""
        return f"cell type: {term.name}. {term.definition}".rstrip()

    def prompts(self, term: CellType, *, n_synonyms: int = 3) -> tuple[str, ...]:
        """Several texts of a cell type, for averaging their embeddings.

        By its name alone, by name and definition, by its first synonyms, and by the types it is a kind of.
        """
        parents = " and ".join(self[parent].name for parent in term.parents)
        phrasings = [
            f"cell type: {term.name}.",
            self.text(term),
            *(f"cell type: {synonym}." for synonym in term.synonyms[:n_synonyms]),
        ]
        if parents:
            phrasings.append(f"cell type: {term.name}, a kind of {parents}.")
        return tuple(dict.fromkeys(phrasings))


def _read_terms(table: str) -> Iterator[CellType]:
    for line in table.splitlines()[1:]:
        identifier, name, definition, *lists = line.split("\t")
        yield CellType(identifier, name, definition, *(tuple(filter(None, names.split("|"))) for names in lists))


def _read_aliases(table: str) -> Iterator[tuple[str, str]]:
    for line in table.splitlines()[1:]:
        identifier, _, labels = line.split("\t")
        for label in labels.split("|"):
            yield label, identifier
