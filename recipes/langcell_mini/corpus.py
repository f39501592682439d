"""Labelled data sets over one vocabulary, and the sets of marker genes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.checks import MatrixState, inspect_matrix
from scfoundry.model.cellnamer._studies import LabelledSet

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["choose_vocabulary", "human_genes", "read_labels", "read_markers", "read_set", "read_sets"]

LABELS_KEY = "cell_type"
BIOTYPES = ("protein_coding", "lncRNA")
MIN_CELLS = 5


def human_genes() -> GeneVocabulary:
    """Every gene that may enter the vocabulary."""
    table = sf.datasets.human_genes()
    table = table[table["biotype"].isin(BIOTYPES)]
    return GeneVocabulary(table.index, table["symbol"])


def read_labels(path: Path) -> pd.DataFrame:
    """Read what labels stand for: columns set, label, terms (ids joined by ``|``), text, scale."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def read_set(path: Path, labels: pd.DataFrame, genes: GeneVocabulary) -> LabelledSet:
    """Read one file over all human genes; cells without a listed label are left out."""
    adata = ad.read_h5ad(path)
    listed = labels[labels["set"] == path.stem]
    adata = adata[adata.obs[LABELS_KEY].isin(listed["label"]).to_numpy()]
    values = sparse.csr_matrix(adata.X).astype(np.float32)
    if listed["scale"].iloc[0] == "log2":
        values.data = np.exp2(values.data) - 1
    elif not listed["scale"].iloc[0] and inspect_matrix(adata).state is MatrixState.LOG1P:
        values.data = np.expm1(values.data)
    alignment = genes.align(adata, min_overlap=0)
    measured = np.zeros(len(genes), dtype=bool)
    measured[alignment.measured] = True
    types = {row.label: tuple(row.terms.split("|")) if row.terms else (row.text,) for row in listed.itertuples()}
    return LabelledSet(
        path.stem, alignment.apply(values), measured, adata.obs[LABELS_KEY].astype(str).to_numpy(), types
    )


def read_sets(folder: Path, labels: pd.DataFrame, genes: GeneVocabulary, hold_out: list[str]) -> list[LabelledSet]:
    """Read all files that have listed labels."""
    names = [name for name in labels["set"].unique() if name not in hold_out]
    return [read_set(folder / f"{name}.h5ad", labels, genes) for name in names]


def read_markers(path: Path, types: Path, genes: GeneVocabulary) -> dict[str, NDArray[np.int64]]:
    """Positions of the human marker genes of every type, by its id, from a PanglaoDB table."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    table = table[table["species"].str.contains("Hs")]
    symbols = table["official gene symbol"].unique()
    alignment = genes.align(symbols, min_overlap=0)
    position = dict(zip(symbols, alignment.target, strict=True))
    ids = pd.read_csv(types, sep="\t").groupby("type")["id"].agg(list)
    markers: dict[str, set[int]] = defaultdict(set)
    for cell_type, symbol in zip(table["cell type"], table["official gene symbol"], strict=True):
        for identifier in ids.get(cell_type, []):
            if position[symbol] >= 0:
                markers[identifier].add(int(position[symbol]))
    return {identifier: np.sort(list(found)) for identifier, found in sorted(markers.items())}


def choose_vocabulary(
    sets: list[LabelledSet], markers: dict[str, NDArray[np.int64]], n_genes: int
) -> NDArray[np.int64]:
    """Genes that two studies measure at least: all markers, then those that differ most between cell types."""
    support = np.sum([study.measured for study in sets], axis=0)
    spread = np.zeros(len(support))
    for study in sets:
        totals = np.asarray(study.counts.sum(1)).ravel().clip(1e-9)
        log = (sparse.diags(1e4 / totals) @ study.counts).log1p()
        common = [
            label for label, n in zip(*np.unique(study.labels, return_counts=True), strict=True) if n >= MIN_CELLS
        ]
        means = np.stack([np.asarray(log[study.labels == label].mean(0)).ravel() for label in common])
        spread += means.std(0)
    spread[np.unique(np.concatenate(list(markers.values())))] += spread.max() + 1
    spread[support < 2] = 0
    return np.sort(np.argsort(-spread, kind="stable")[:n_genes])
