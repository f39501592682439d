"""Labelled studies over one vocabulary, and the sets of marker genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["choose_genes", "human_genes", "joined", "read_labels", "read_markers", "read_studies"]

LABELS_KEY, STUDY_KEY = "cell_type", "study"
BIOTYPES = ("protein_coding", "lncRNA")
MIN_CELLS = 5
# Studies without counts are brought to this total of a cell, and to whole numbers.
TOTAL = 1e5


def human_genes() -> GeneVocabulary:
    """Every gene that may enter the vocabulary."""
    table = sf.datasets.human_genes()
    table = table[table["biotype"].isin(BIOTYPES)]
    return GeneVocabulary(table.index, table["symbol"])


def read_labels(path: Path) -> pd.DataFrame:
    """Read what labels stand for: columns set, label, terms (ids joined by ``|``), text, scale."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def read_studies(
    folder: Path, labels: pd.DataFrame, genes: GeneVocabulary, hold_out: Sequence[str]
) -> list[ad.AnnData]:
    """Read all files that have listed labels, over the vocabulary."""
    listed = labels[~labels["set"].isin(hold_out)]
    return [read_study(folder / f"{name}.h5ad", of_set, genes) for name, of_set in listed.groupby("set", sort=False)]


def read_study(path: Path, labels: pd.DataFrame, genes: GeneVocabulary) -> ad.AnnData:
    """Read one file; cells without a listed label are left out, the others get what their label stands for."""
    adata = ad.read_h5ad(path)
    adata = adata[adata.obs[LABELS_KEY].isin(labels["label"]).to_numpy()]
    alignment = genes.align(adata, min_overlap=0)
    counts = alignment.apply(as_counts(sparse.csr_matrix(adata.X).astype(np.float32), labels["scale"].iloc[0]))
    stands_for = labels["terms"].where(labels["terms"] != "", labels["text"])
    names = adata.obs[LABELS_KEY].astype(str).map(dict(zip(labels["label"], stands_for, strict=True)))
    obs = pd.DataFrame({LABELS_KEY: names.to_numpy(), STUDY_KEY: path.stem}, index=path.stem + ":" + adata.obs_names)
    study = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes.ids))
    study.var["measured"] = np.isin(np.arange(len(genes)), alignment.measured)
    study.uns["has_counts"] = labels["scale"].iloc[0] == ""
    return study


def as_counts(values: sparse.csr_matrix, scale: str) -> sparse.csr_matrix:
    """Whole numbers of values on a scale: empty for counts, ``linear`` or ``log2``."""
    if scale == "":
        return values
    if scale == "log2":
        values.data = np.exp2(values.data) - 1
    totals = np.asarray(values.sum(1)).ravel().clip(1e-9)
    scaled = (sparse.diags_array(TOTAL / totals) @ values).tocsr()
    scaled.data = scaled.data.round()
    scaled.eliminate_zeros()
    return sparse.csr_matrix(scaled).astype(np.float32)


def joined(studies: Sequence[ad.AnnData]) -> ad.AnnData:
    """All cells as one data set."""
    return ad.concat(studies)


def read_markers(path: Path, types: Path) -> dict[str, list[str]]:
    """Symbols of the human marker genes of every type, by its Cell Ontology id, from a PanglaoDB table."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    table = table[table["species"].str.contains("Hs")]
    ids = pd.read_csv(types, sep="\t")[["type", "id"]]
    merged = table.merge(ids, left_on="cell type", right_on="type")
    return {i: sorted(set(symbols)) for i, symbols in merged.groupby("id")["official gene symbol"]}


def choose_genes(
    studies: Sequence[ad.AnnData], markers: dict[str, list[str]], genes: GeneVocabulary, n_genes: int
) -> GeneVocabulary:
    """Vocabulary of genes that two studies measure at least: all markers, then those that differ most between types.

    With the non-zero medians of the studies with counts, by which `sf.pp.rank_encode` divides; of genes that none of
    these detects, the median of all medians.
    """
    spread = np.zeros(len(genes))
    for study in studies:
        totals = np.asarray(study.X.sum(1)).ravel().clip(1e-9)
        log = (sparse.diags_array(1e4 / totals) @ study.X).log1p().tocsr()
        labels = study.obs[LABELS_KEY].to_numpy()
        common = [label for label, n in zip(*np.unique(labels, return_counts=True), strict=True) if n >= MIN_CELLS]
        spread += np.stack([np.asarray(log[labels == label].mean(0)).ravel() for label in common]).std(0)
    symbols = sorted({symbol for of_type in markers.values() for symbol in of_type})
    position = genes.align(symbols, min_overlap=0).target
    spread[np.unique(position[position >= 0])] += spread.max() + 1
    spread[np.sum([study.var["measured"] for study in studies], axis=0) < 2] = 0
    chosen = genes.subset(np.sort(np.argsort(-spread, kind="stable")[:n_genes]))

    found = sf.pp.gene_medians(joined([study for study in studies if study.uns["has_counts"]]))
    position = found.index_of(chosen.ids)
    medians = np.where(position >= 0, found.medians[position], np.median(found.medians))
    return GeneVocabulary(chosen.ids, chosen.symbols, aliases=chosen.aliases, species=chosen.species, medians=medians)
