"""Marker genes of every cell type of the corpus: high in the type, low in all types that have nothing to do with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scfoundry.data.labels.hierarchy import related
from scfoundry.data.labels.ontology import CellOntology

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["marker_genes"]

LISTED = Path(__file__).parent / "tables" / "markers.tsv"
"""Types that the corpus has few cells of or none, with markers from textbooks."""

MIN_CELLS = 5
# Log expression that a marker exceeds its level in other types by, at least.
MIN_CHANGE = 0.3
# Share of the other types that may express a marker as much: some are the same type under another name.
MOST_OTHERS = 0.05


def marker_genes(corpus: AnnData, n_genes: int = 30, listed: Path = LISTED) -> dict[str, list[str]]:
    """Up to ``n_genes`` markers of every type, by its Cell Ontology id or its text, and those that a table lists."""
    ontology = CellOntology.load()
    types, means = type_means(corpus)
    markers = {}
    for row, identifier in enumerate(types):
        others = means[~related([identifier], types, ontology)]
        nth = len(others) - 1 - int(MOST_OTHERS * len(others))
        change = means[row] - np.partition(others, nth, axis=0)[nth].clip(0)
        best = np.argsort(-change, kind="stable")[:n_genes]
        chosen = np.sort(best[change[best] > MIN_CHANGE])
        if len(chosen):
            markers[identifier] = corpus.var_names[chosen].tolist()
    ids = pd.Series(corpus.var_names, corpus.var["symbol"]).groupby(level=0).first()
    for row in pd.read_csv(listed, sep="\t").itertuples():
        known = ids.reindex(row.markers.split()).dropna()
        markers[row.id] = list(dict.fromkeys([*markers.get(row.id, []), *known]))
    return markers


def type_means(corpus: AnnData) -> tuple[list[str], NDArray[np.float64]]:
    """Types, and their mean log expression (types, genes), every study weighing the same; -inf where none measured."""
    sums: dict[str, NDArray[np.float64]] = {}
    times: dict[str, NDArray[np.float64]] = {}
    groups = corpus.obs.groupby(["study", "cell_type"], observed=True).indices
    for (study, label), rows in groups.items():
        if "|" in label or not label or len(rows) < MIN_CELLS:
            continue
        counts = sparse.csr_matrix(corpus.X[rows])
        totals = np.asarray(counts.sum(1)).ravel().clip(1e-9)
        log = (sparse.diags_array(1e4 / totals) @ counts).log1p()
        measured = corpus.varm["measured"][study].to_numpy()
        sums[label] = sums.get(label, 0) + np.asarray(log.mean(0)).ravel() * measured
        times[label] = times.get(label, 0) + measured
    types = sorted(sums)
    n_studies = np.stack([times[t] for t in types])
    return types, np.where(n_studies > 0, np.stack([sums[t] for t in types]) / np.maximum(n_studies, 1), -np.inf)
