"""Build the corpus that all small weights are trained on: one AnnData of human cells over one vocabulary.

    python recipes/corpus.py DATA_FOLDER corpus --hold-out pbmc3k liver_he_2839

Two tables say what is read. ``studies.tsv``: file (without .h5ad), labels and groups (columns of obs with cell types
and with samples, or empty), tissue, values (``counts``; ``linear`` or ``log2`` values are brought to whole numbers;
``means`` are profiles of cell types, of which cells are drawn), use (``score`` keeps a file out of training), overlaps
(a file with some of the same cells: these are dropped, and the two are held out together) and licence. ``labels.tsv``:
set, label, terms (Cell Ontology ids joined by ``|``) or text (describes what the ontology lacks); sets that it does not
list are looked up in ``labels.json`` beside the data. Labels without either are read as none.

Writes ``corpus.h5ad`` and ``manifest.json``, which names every file with its checksum, cells and licence.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary

if __package__:
    from recipes.pseudo_cells import profile_cells
else:
    from pseudo_cells import profile_cells

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from anndata import AnnData

__all__ = ["build", "human_vocabulary", "labelled", "with_medians"]

TABLES = Path(__file__).parent / "tables"
BIOTYPES = ("protein_coding", "IG_C_gene", "IG_V_gene", "TR_C_gene", "TR_V_gene")
# Fewer cells are no sample of their own.
MIN_CELLS = 50
# Values that are no counts are brought to this total of a cell, and to whole numbers.
TOTAL = 1e5
# Studies of fewer genes are panels: their medians would be those of a share of a cell's counts.
WHOLE = 8000


def human_vocabulary() -> GeneVocabulary:
    """Protein-coding genes, the mitochondrial ones too, and constant and variable genes of lymphocyte receptors."""
    table = sf.datasets.human_genes()
    table = table[table["biotype"].isin(BIOTYPES)]
    return GeneVocabulary(table.index, table["symbol"])


def build(
    folder: Path,
    *,
    hold_out: Collection[str] = (),
    tables: Path = TABLES,
    max_cells: int = 600,
    cells_per_profile: int = 8,
    seed: int = 0,
) -> tuple[AnnData, list[dict[str, Any]]]:
    """All cells of the studies that are not held out, and the manifest.

    Of a type in a study there are ``max_cells`` at most; of every profile ``cells_per_profile`` are drawn. ``obs``
    holds study, sample, tissue, cell_type (terms joined by ``|``, a text, or nothing) and values; ``varm["measured"]``
    which genes each study measured; ``obsm["spatial"]`` coordinates, NaN where there are none.
    """
    studies = pd.read_csv(tables / "studies.tsv", sep="\t", dtype=str, keep_default_na=False)
    if unknown := sorted(set(hold_out) - set(studies["file"])):
        msg = f"hold_out names {', '.join(unknown)}, which studies.tsv does not list."
        raise ValueError(msg)
    genes, stands_for = human_vocabulary(), read_labels(tables, folder)
    parts, manifest, names = [], [], {}
    for row in studies.sort_values("overlaps", kind="stable").itertuples():
        if row.use != "train" or {row.file, row.overlaps} & set(hold_out):
            continue
        path = folder / f"{row.file}.h5ad"
        adata = ad.read_h5ad(path)
        adata = adata[~adata.obs_names.isin(names.get(row.overlaps, []))]
        names[row.file] = adata.obs_names
        rng = np.random.default_rng([seed, *row.file.encode()])
        cells, measured = study_cells(
            adata, row, stands_for.get(row.file, {}), genes, max_cells, cells_per_profile, rng
        )
        parts.append((cells, measured))
        manifest.append(
            {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "licence": row.licence}
            | {"tissue": row.tissue, "values": row.values, "cells": cells.n_obs}
            | {"labelled": int((cells.obs["cell_type"] != "").sum())}
        )
    corpus = ad.concat([cells for cells, _ in parts])
    corpus.var["symbol"] = genes.symbols
    corpus.varm["measured"] = pd.concat([measured for _, measured in parts], axis=1)
    return corpus, manifest


def read_labels(tables: Path, folder: Path) -> dict[str, dict[str, str]]:
    """What the labels of every set stand for."""
    found: dict[str, dict[str, str]] = {}
    path = folder / "labels.json"
    if path.exists():
        for name, labels in json.loads(path.read_text()).items():
            found[name] = {label: entry["cl_id"] for label, entry in labels.items() if entry["cl_id"]}
    listed = pd.read_csv(tables / "labels.tsv", sep="\t", dtype=str, keep_default_na=False)
    for name, rows in listed.groupby("set"):
        found[name] = dict(zip(rows["label"], rows["terms"].where(rows["terms"] != "", rows["text"]), strict=True))
    return found


def study_cells(
    adata: AnnData,
    row: Any,
    stands_for: Mapping[str, str],
    genes: GeneVocabulary,
    max_cells: int,
    cells_per_profile: int,
    rng: np.random.Generator,
) -> tuple[AnnData, pd.DataFrame]:
    """Cells of one file over the vocabulary, and the genes that each of its studies measured."""
    labels = (
        adata.obs[row.labels].astype(str).map(stands_for).fillna("") if row.labels else pd.Series("", adata.obs_names)
    )
    alignment = genes.align(adata, min_overlap=0)
    if row.values == "means":
        return profile_cells(adata, labels.to_numpy(), alignment, genes, cells_per_profile, rng)
    chosen = np.concatenate(
        [
            np.sort(rng.permutation(rows)[:max_cells]) if label else rows
            for label, rows in sorted(labels.groupby(labels.to_numpy()).indices.items())
        ]
    )
    adata, labels = adata[chosen], labels.iloc[chosen]
    in_groups = bool(row.groups) and adata.n_obs >= MIN_CELLS * adata.obs[row.groups].nunique()
    groups = adata.obs[row.groups].astype(str) if in_groups else pd.Series("all", adata.obs_names)
    obs = pd.DataFrame({"cell_type": labels, "tissue": row.tissue, "values": row.values}, index=adata.obs_names)
    obs = obs.assign(study=row.file, sample=(row.file + "/" + groups).to_numpy())
    counts = alignment.apply(whole_numbers(sparse.csr_matrix(adata.X).astype(np.float32), row.values))
    cells = ad.AnnData(counts, obs=obs.rename(index=f"{row.file}:{{}}".format), var=pd.DataFrame(index=genes.ids))
    cells.obsm["spatial"] = np.asarray(adata.obsm.get("spatial", np.full((adata.n_obs, 2), np.nan)))[:, :2]
    cells = cells[np.diff(cells.X.indptr) > 0].copy()
    measured = np.isin(np.arange(len(genes)), alignment.measured)
    return cells, pd.DataFrame({row.file: measured}, index=genes.ids)


def whole_numbers(values: sparse.csr_matrix, scale: str) -> sparse.csr_matrix:
    """Counts as they are; other values on a common total, rounded."""
    if scale == "counts":
        return values
    if scale == "log2":
        values.data = np.exp2(values.data) - 1
    totals = np.asarray(values.sum(1)).ravel().clip(1e-9)
    scaled = sparse.csr_matrix(sparse.diags_array(TOTAL / totals) @ values)
    scaled.data = scaled.data.round()
    scaled.eliminate_zeros()
    return scaled.astype(np.float32)


def labelled(corpus: AnnData) -> AnnData:
    """The cells with a label."""
    return corpus[(corpus.obs["cell_type"] != "").to_numpy()].copy()


def with_medians(corpus: AnnData) -> GeneVocabulary:
    """The vocabulary with medians by the studies that counted the whole transcriptome, for models that rank genes.

    Of genes that none of these detects, the median of all medians.
    """
    whole = corpus.varm["measured"].sum()
    of_study = corpus.obs["study"].map(whole >= WHOLE).to_numpy()
    found = sf.pp.gene_medians(corpus[of_study & (corpus.obs["values"] == "counts").to_numpy()])
    position = found.index_of(corpus.var_names)
    medians = np.where(position >= 0, found.medians[position], np.median(found.medians))
    return GeneVocabulary(corpus.var_names, corpus.var["symbol"], medians=medians)


def main() -> None:
    """Build and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--hold-out", nargs="*", default=[], help="file names without .h5ad")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of studies.tsv and labels.tsv")
    parser.add_argument("--max-cells", type=int, default=600, help="most cells of a type in a study")
    parser.add_argument("--cells-per-profile", type=int, default=8, help="cells drawn of every mean profile")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    options = {"max_cells": args.max_cells, "cells_per_profile": args.cells_per_profile, "seed": args.seed}
    corpus, manifest = build(args.data, hold_out=args.hold_out, tables=args.tables, **options)
    args.out.mkdir(parents=True, exist_ok=True)
    corpus.write_h5ad(args.out / "corpus.h5ad", compression="gzip")
    entries = {"held_out": sorted(args.hold_out), "options": options, "files": manifest}
    (args.out / "manifest.json").write_text(json.dumps(entries, indent=1) + "\n")
    types = {term for label in corpus.obs["cell_type"].unique() for term in label.split("|")} - {""}
    print(f"{corpus.n_obs:,} cells of {len(manifest)} files, {corpus.n_vars:,} genes, {len(types)} cell types")


if __name__ == "__main__":
    main()
