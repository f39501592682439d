"""Labelled studies as one AnnData in which every cell type has about as many cells as any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.checks import MatrixState, inspect_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["balanced", "choose_genes", "read_studies"]

LABELS_KEY = "cell_type"
BIOTYPES = ("protein_coding", "lncRNA")
MIN_CELLS = 5
# Medians of a panel would be those of its share of a cell's counts.
MIN_GENES = 8000
# A cell is shown this often at most, however rare its type is.
MAX_VIEWS = 6


def read_studies(folder: Path, labels: pd.DataFrame, hold_out: Sequence[str]) -> dict[str, ad.AnnData]:
    """Files that have listed labels, over all human genes; cells whose label stands for one type.

    Values other than counts (column ``scale``) are brought to a linear scale and rounded; ``uns["counts"]`` says
    whether they were counts.
    """
    table = sf.datasets.human_genes()
    table = table[table["biotype"].isin(BIOTYPES)]
    genes = GeneVocabulary(table.index, table["symbol"])
    studies = {}
    for name, listed in labels.groupby("set", sort=False):
        if name in hold_out:
            continue
        adata = ad.read_h5ad(folder / f"{name}.h5ad")
        terms = {row.label: row.terms or row.text for row in listed.itertuples() if "|" not in row.terms}
        adata = adata[adata.obs[LABELS_KEY].isin(terms).to_numpy()]
        values = sparse.csr_matrix(adata.X).astype(np.float32)
        if listed["scale"].iloc[0] == "log2":
            values.data = np.exp2(values.data) - 1
        alignment = genes.align(adata, min_overlap=0)
        study = ad.AnnData(
            sparse.csr_matrix(alignment.apply(values).rint()),
            obs=pd.DataFrame({"term": adata.obs[LABELS_KEY].astype(str).map(terms)}, index=adata.obs_names),
            var=pd.DataFrame({"symbol": genes.symbols}, index=genes.ids),
            uns={"measured": alignment.measured, "counts": inspect_matrix(adata).state is MatrixState.COUNTS},
        )
        study.obs["label"] = adata.obs[LABELS_KEY].astype(str)
        study.X.eliminate_zeros()
        studies[name] = study
    return studies


def choose_genes(studies: dict[str, ad.AnnData], n_genes: int) -> GeneVocabulary:
    """The genes that differ most between the types of a study, among those that two studies measure, with medians."""
    first = next(iter(studies.values()))
    spread, support = np.zeros(first.n_vars), np.zeros(first.n_vars)
    for study in studies.values():
        support[study.uns["measured"]] += 1
        log = log_cp10k(study.X)
        of_label = study.obs.groupby("label").indices.values()
        means = [np.asarray(log[rows].mean(0)).ravel() for rows in of_label if len(rows) >= MIN_CELLS]
        if len(means) > 1:
            spread += np.std(means, axis=0)
    spread[support < 2] = 0
    chosen = np.sort(np.argsort(-spread, kind="stable")[:n_genes])
    genes = GeneVocabulary(first.var_names[chosen], first.var["symbol"].iloc[chosen])
    whole = {
        name: study for name, study in studies.items() if study.uns["counts"] and len(study.uns["measured"]) > MIN_GENES
    }
    return sf.pp.gene_medians(ad.concat(whole, index_unique="-"), genes=genes)


def log_cp10k(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log counts per ten thousand."""
    totals = np.asarray(counts.sum(1)).ravel().clip(1)
    return (sparse.diags(1e4 / totals) @ counts).log1p()


def balanced(
    studies: dict[str, ad.AnnData], genes: GeneVocabulary, *, n_cells: int, rng: np.random.Generator
) -> ad.AnnData:
    """About ``n_cells`` views of every label of a study.

    Half of the views, or all that the label has cells for, are cells as measured. The others are cells thinned to a
    fifth of their counts at the least, every second of them on the genes of another study or on random ones.
    """
    everything = list(studies.values())
    position = everything[0].var_names.get_indexer(genes.ids)
    panels = [np.isin(position, study.uns["measured"]) for study in everything]
    parts = {}
    for name, study in studies.items():
        counts = study.X.tocsc()[:, position].tocsr()
        rows, thin = [], []
        for cells in study.obs.groupby("label").indices.values():
            drawn = rng.permutation(cells)
            n_views = min(n_cells, MAX_VIEWS * len(drawn))
            as_measured = min(len(drawn), n_views // 2)
            rows.append(np.resize(drawn, n_views))
            thin.append(np.arange(n_views) >= as_measured)
        chosen, thinned = np.concatenate(rows), np.concatenate(thin)
        shown = counts[chosen]
        shown.data = thin_counts(shown, thinned, panels, rng)
        shown.eliminate_zeros()
        parts[name] = ad.AnnData(shown, obs=study.obs.iloc[chosen].reset_index(drop=True).rename(index=str))
    views = ad.concat(parts, label="study", index_unique="-")
    views.var = pd.DataFrame({"symbol": genes.symbols}, index=genes.ids)
    return views[np.diff(views.X.indptr) > 0].copy()


def thin_counts(
    counts: sparse.csr_matrix, thinned: NDArray[np.bool_], panels: list[NDArray[np.bool_]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Values of ``counts`` after some of its rows have been thinned and cut to a panel."""
    values = counts.data.copy()
    for row in np.flatnonzero(thinned):
        stored = slice(counts.indptr[row], counts.indptr[row + 1])
        values[stored] = rng.binomial(values[stored].astype(np.int64), rng.uniform(0.2, 1))
        if rng.random() < 0.5:
            panel = panels[rng.integers(len(panels))]
            if rng.random() < 0.5:
                panel = rng.random(counts.shape[1]) < rng.uniform(0.15, 0.7)
            # A panel that leaves nothing was never used on such a cell.
            if (values[stored] * panel[counts.indices[stored]]).sum() >= 20:
                values[stored] *= panel[counts.indices[stored]]
    return values
