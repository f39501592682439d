"""Registered cells as training reads them: by study, with what their labels stand for."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scfoundry._arguments import quoted
from scfoundry._settings import logger
from scfoundry.data.labels import NO_LABEL
from scfoundry.data.labels.hierarchy import is_kind_of
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.matrix.state import MatrixState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model.cellnamer._config import CellNamerConfig

__all__ = [
    "UNION",
    "RegisteredCells",
    "Study",
    "known_from",
    "labels_in",
    "marker_table",
    "n_studies",
    "occur_together",
    "require_labels",
]

UNLABELLED = ""
# Joins the terms of a label whose cells are of one of several types.
UNION = "|"


@dataclass(frozen=True)
class Study:
    """Cells of one study."""

    counts: sparse.csr_matrix  # Over the vocabulary, (n, G) float32
    measured: NDArray[np.bool_]  # Which genes the study measured, (G,) bool
    labels: NDArray[np.str_]  # Label of every cell, empty where it says nothing, (n,)
    types: dict[str, tuple[str, ...]]  # What every label stands for: Cell Ontology ids, or a text that says it

    @property
    def is_counts(self) -> bool:
        """Whether values are whole numbers, which can be thinned."""
        return bool(np.all(self.counts.data[:1000] % 1 == 0))


# Many times as many as a training draws; about a gigabyte.
MAX_HELD = 100_000


class RegisteredCells:
    """Registered cells, in memory and in the order of their names, so that the order of rows plays no part.

    Beyond `MAX_HELD` cells, the largest groups of a label in a study keep as many as each other, drawn at random.

    Attributes
    ----------
    counts
        Over the vocabulary, (n, G) float32.
    rows
        Row of the AnnData of every cell, (n,).
    labels, types
        Label of every cell, empty where it says nothing, (n,), and what every label stands for.
    study, names
        Number of the study of every cell, (n,), and names of the studies.
    """

    def __init__(
        self, cells: Cells, genes: GeneVocabulary, labels: NDArray[np.str_], studies: NDArray[np.str_]
    ) -> None:
        self.genes, self.is_log1p = genes, cells.provenance["values"] == str(MatrixState.LOG1P)
        rows = cells.by_name
        self.names, study = np.unique(studies[rows], return_inverse=True)
        held = held_evenly(np.unique(labels[rows], return_inverse=True)[1] * len(self.names) + study, MAX_HELD)
        if len(held) < len(rows):
            logger.info("%d of %d cells are held in memory, evenly over labels and studies.", len(held), len(rows))
        self.rows, self.study = rows[held], study[held]
        self.counts = cells.read(self.rows)
        self.labels = labels[self.rows]
        ontology = CellOntology.load()
        self.types = {label: types_of(label, ontology) for label in np.unique(self.labels).tolist()}

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """Genes of which a study has any count, (number of studies, G)."""
        return np.stack([self.counts[self.study == i].getnnz(axis=0) > 0 for i in range(len(self.names))])

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Cells without a gene of the vocabulary, (n,)."""
        return np.diff(self.counts.indptr) == 0

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Cells with a label, (n,)."""
        return self.labels != UNLABELLED

    @property
    def groups(self) -> NDArray[np.int64]:
        """Number of the label and study of every cell, (n,)."""
        return np.unique(self.labels, return_inverse=True)[1] * len(self.names) + self.study

    def studies(self, cells: NDArray[np.int64], like: NDArray[np.int64] | None = None) -> list[Study]:
        """Some of the cells, study by study; in the studies of other cells, ``like`` which they are, if given."""
        chosen = {i: cells[self.study[cells] == i] for i in np.unique(self.study[cells if like is None else like])}
        return [Study(self.counts[own], self.measured[i], self.labels[own], self.types) for i, own in chosen.items()]

    def part(self, study: int, cells: NDArray[np.int64]) -> AnnData:
        """Some cells of a study, as a user would bring them: with the genes that the study measured."""
        values = self.counts[cells][:, self.measured[study]]
        genes = pd.DataFrame(index=self.genes.ids[self.measured[study]])
        return AnnData(values.log1p() if self.is_log1p else values, var=genes)


def held_evenly(groups: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Places of ``most`` cells or fewer, ascending: of every group (n,) all, or as many as the others at random.

    No group is left out, though there be more of them.
    """
    sizes = np.bincount(groups)
    fitting = bisect.bisect_right(range(sizes.max() + 1), most, key=lambda n: np.minimum(sizes, n).sum()) - 1
    order = np.random.default_rng(0).permutation(len(groups))
    by_group = order[np.argsort(groups[order], kind="stable")]
    place = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(by_group[place < max(1, fitting)])


def require_labels(adata: AnnData, column: str) -> None:
    """Refuse a column of ``obs`` in which cells have no label."""
    if column in adata.obs and (n_missing := int(adata.obs[column].isna().sum())):
        msg = (
            f"obs[{column!r}] has no label for {n_missing:,} of {adata.n_obs:,} cells. Cells named 'unknown' are read "
            f"without their label: adata.obs[{column!r}] = adata.obs[{column!r}].astype(object).fillna('unknown')."
        )
        raise ValueError(msg)


def known_from(
    registered: NDArray[np.str_], key: str, genes: GeneVocabulary, markers: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    """Types and markers that the configuration takes from registered labels, those of ``obs[key]``."""
    ontology = CellOntology.load()
    labels = [types_of(label, ontology) for label in np.unique(registered) if label != UNLABELLED]
    shown = {types[0] for types in labels if len(types) == 1}
    if len(shown) < 2:
        found = f"only {shown.pop()!r}" if shown else "none"
        msg = (
            f"To tell cell types apart, at least two must be labelled; obs[{key!r}] names {found}. "
            'Register another column: CellNamer.setup_anndata(adata, labels_key="cell_type").'
        )
        raise ValueError(msg)
    known = _known_markers(markers or {}, genes, ontology)
    return {"types": sorted(shown | known.keys()), "markers": known}


def labels_of(column: pd.Series) -> NDArray[np.str_]:
    """Label of every cell, empty where it says nothing."""
    labels = column.astype(str).str.strip()
    return labels.where(~labels.str.lower().isin(NO_LABEL), UNLABELLED).to_numpy(dtype=str)


def types_of(label: str, ontology: CellOntology) -> tuple[str, ...]:
    """Ids of the terms that a label stands for; the label itself where the ontology lacks one of them."""
    terms = [ontology.resolve(part.strip()) for part in label.split(UNION)]
    return tuple(term.id for term in terms if term is not None) if None not in terms else (label,)


def _known_markers(
    markers: Mapping[str, Sequence[str]], genes: GeneVocabulary, ontology: CellOntology
) -> dict[str, list[str]]:
    """Ids of the marker genes among ``genes``, by type; several names of a type add up."""
    found: dict[str, list[str]] = {}
    for name, symbols in markers.items():
        term = ontology.resolve(name)
        position = genes.index_of(symbols)
        listed = found.setdefault(name if term is None else term.id, [])
        listed += [gene for gene in genes.ids[position[position >= 0]].tolist() if gene not in listed]
    if unmarked := [i for i, listed in found.items() if not listed]:
        logger.warning("No marker of %s is a gene of the model: left out.", quoted(unmarked))
    return {identifier: sorted(listed) for identifier, listed in found.items() if listed}


def labels_in(studies: Sequence[Study]) -> list[tuple[str, ...]]:
    """Ids of every label that cells of some study have."""
    return sorted({ids for study in studies for label, ids in study.types.items() if label in study.labels})


def occur_together(studies: Sequence[Study], labels: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    """Which labels have cells in one and the same study, (labels, labels)."""
    number = {ids: i for i, ids in enumerate(labels)}
    together = np.zeros((len(labels), len(labels)), dtype=bool)
    for study in studies:
        present = [number[ids] for ids in labels_in([study])]
        together[np.ix_(present, present)] = True
    np.fill_diagonal(together, val=False)
    return together


def n_studies(types: Sequence[str], studies: Sequence[Study], ontology: CellOntology) -> NDArray[np.float32]:
    """In how many studies there are cells of each type, (C,)."""
    shown = [{i for ids in labels_in([study]) for i in ids} for study in studies]
    return np.array(
        [sum(any(is_kind_of(i, t, ontology) for i in ids) for ids in shown) for t in types], dtype=np.float32
    )


def marker_table(config: CellNamerConfig, genes: GeneVocabulary) -> NDArray[np.bool_]:
    """Marker sets of the profiles, (K, G)."""
    table = np.zeros((len(config.profiles), len(genes)), dtype=bool)
    for row, identifier in zip(table, config.profiles, strict=True):
        row[genes.index_of(config.markers[identifier])] = True
    return table
