"""Registered cells as training reads them: by study, with what their labels stand for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scfoundry._settings import logger
from scfoundry.data.labels import NO_LABEL
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.matrix.state import MatrixState
from scfoundry.model.cellnamer._studies import LabelledSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.model.langcell._model import LangCell

__all__ = ["RegisteredCells", "require_labels", "what_is_known"]

UNLABELLED = ""


def require_labels(adata: AnnData, column: str) -> None:
    """Refuse a column of ``obs`` in which cells have no label."""
    if column in adata.obs and (n_missing := int(adata.obs[column].isna().sum())):
        msg = (
            f"obs[{column!r}] has no label for {n_missing:,} of {adata.n_obs:,} cells. Cells named 'unknown' are read "
            f"without their label: adata.obs[{column!r}] = adata.obs[{column!r}].astype(object).fillna('unknown')."
        )
        raise ValueError(msg)


def what_is_known(
    model: LangCell, genes: GeneVocabulary, markers: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    """Types, profiles and markers that the configuration of a scorer takes from registered data."""
    ontology = CellOntology.load()
    if model.registry["setup_args"].get("labels_key") is None:
        msg = (
            "LangCell(adata, cell_encoder='expression_mlp') learns the cell types of its training data, but no labels "
            'are registered: LangCell.setup_anndata(adata, labels_key="cell_type").'
        )
        raise ValueError(msg)
    labels = registered_labels(model)
    shown = {type_of(label, ontology) for label in np.unique(labels) if label != UNLABELLED}
    if len(shown) < 2:
        found = f"only {shown.pop()!r}" if shown else "none"
        key = model.registry["setup_args"]["labels_key"]
        msg = (
            f"To tell cell types apart, at least two must be labelled; obs[{key!r}] names {found}. "
            'Register another column: LangCell.setup_anndata(adata, labels_key="cell_type").'
        )
        raise ValueError(msg)
    known = _known_markers(markers or {}, genes, ontology)
    return {"types": sorted(shown | known.keys()), "profiles": sorted(known), "markers": known}


def type_of(label: str, ontology: CellOntology) -> str:
    """Id of the term that a label stands for; the label itself where the ontology has none."""
    term = ontology.resolve(label)
    return label if term is None else term.id


def registered_labels(model: LangCell) -> NDArray[np.str_]:
    """Label of every registered cell, empty where it says nothing."""
    labels = model.adata.obs[model.registry["setup_args"]["labels_key"]].astype(str).str.strip()
    return labels.where(~labels.str.lower().isin(NO_LABEL), UNLABELLED).to_numpy(dtype=str)


def _known_markers(
    markers: Mapping[str, Sequence[str]], genes: GeneVocabulary, ontology: CellOntology
) -> dict[str, list[str]]:
    """Ids of the marker genes among ``genes``, by type; several names of a type add up."""
    found: dict[str, list[str]] = {}
    for name, symbols in markers.items():
        position = genes.index_of(symbols)
        listed = found.setdefault(type_of(name, ontology), [])
        listed += [gene for gene in genes.ids[position[position >= 0]].tolist() if gene not in listed]
    if unmarked := [i for i, listed in found.items() if not listed]:
        logger.warning("No marker of %s is a gene of the model: left out.", ", ".join(map(repr, unmarked)))
    return {identifier: sorted(listed) for identifier, listed in found.items() if listed}


class RegisteredCells:
    """All registered cells, in memory and in the order of their names, so that the order of rows plays no part.

    Attributes
    ----------
    counts
        Over the vocabulary, (n, G) float32.
    rows
        Row of the AnnData of every cell, (n,).
    labels
        Label of every cell, empty where it says nothing, (n,).
    study
        Number of the study of every cell, (n,).
    names
        Names of the studies.

    Parameters
    ----------
    model
        With the registered data.
    """

    def __init__(self, model: LangCell) -> None:
        reader = model._reader(None, None, "LangCell.train")
        self.genes, self.state = model.genes, reader.report.state
        self.rows = np.argsort(model.adata.obs_names.to_numpy().astype(str), kind="stable")
        self.counts = reader.read(np.arange(reader.n_obs))[self.rows]
        self.labels = registered_labels(model)[self.rows]
        key = model.registry["setup_args"]["batch_key"]
        studies = np.zeros(len(self.rows), dtype=str) if key is None else model.adata.obs[key].to_numpy().astype(str)
        self.names, self.study = np.unique(studies[self.rows], return_inverse=True)
        ontology = CellOntology.load()
        self.types: dict[str, tuple[str, ...]] = {
            label: (type_of(label, ontology),) for label in np.unique(self.labels).tolist()
        }

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

    def sets(self, cells: NDArray[np.int64], like: NDArray[np.int64] | None = None) -> list[LabelledSet]:
        """Some of the cells, study by study; in the studies of other cells, ``like`` which they are, if given."""
        chosen = {i: cells[self.study[cells] == i] for i in np.unique(self.study[cells if like is None else like])}
        return [
            LabelledSet(self.names[i], self.counts[own], self.measured[i], self.labels[own], self.types)
            for i, own in chosen.items()
        ]

    def part(self, study: int, cells: NDArray[np.int64]) -> AnnData:
        """Some cells of a study, as a user would bring them: with the genes that the study measured."""
        values = self.counts[cells][:, self.measured[study]]
        genes = pd.DataFrame(index=self.genes.ids[self.measured[study]])
        return AnnData(values.log1p() if self.state is MatrixState.LOG1P else values, var=genes)
