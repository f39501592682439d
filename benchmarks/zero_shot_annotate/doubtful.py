"""Published labels that zero-shot names contradict most: what the genes of these cells say.

    python -m benchmarks doubtful_labels DATA_FOLDER

Types of 20 cells or more of which hardly a cell gets its published name, and, of PBMC 68k, cells labelled as B cells
that are called plasma cells. For each the share of cells that express markers of the published label and of the name
given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import anndata as ad
import numpy as np
import scanpy as sc

import scfoundry as sf
from benchmarks.command import arguments, load_model, parse
from benchmarks.reporting import about, markdown_table, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["DOUBTS", "expressed"]

DEFAULT = "cellnamer-mini"


class Doubt(NamedTuple):
    """Cells of a published label that are called something else."""

    data: str
    labels_key: str
    published: tuple[str, ...]  # labels as they stand in the data
    name: str  # what they are offered as
    given: str  # what they are called
    others: tuple[str, ...]  # further labels on offer
    markers: tuple[str, ...]  # of the published label
    markers_given: tuple[str, ...]


BLOOD = ("T cell", "NK cell", "monocyte", "dendritic cell", "hematopoietic stem cell")
BREAST = ("T-cells", "Myeloid", "CAFs", "PVL", "Endothelial", "Cancer Epithelial", "Normal Epithelial")
PANCREAS = ("Monocytes", "pDCs", "Mast cells", "T cells & NK cells", "RBCs", "Endothelial cells", "Fibroblasts")
PANCREAS += ("Tuft cells", "Acinar cells", "Endocrine cells", "ductal cell", "malignant cell")
B, PLASMA = ("MS4A1", "CD19", "BANK1"), ("JCHAIN", "MZB1", "XBP1")
DENDRITIC, MACROPHAGE = ("CD1C", "CLEC9A", "FLT3"), ("C1QA", "CD163", "APOE")
DOUBTS = (
    Doubt("pbmc68k_reduced", "bulk_labels", ("CD19+ B",), "B cell", "plasma cell", BLOOD, B, PLASMA),
    Doubt("breast_cancer_wu_cid4465", "cell_type", ("B-cells",), "B-cells", "Plasmablasts", BREAST, B, PLASMA),
    Doubt(
        "pdac_a_indrop",
        "cell_type",
        ("mDCs A", "mDCs B"),
        "myeloid dendritic cell",
        "macrophage",
        PANCREAS,
        DENDRITIC,
        MACROPHAGE,
    ),
)
# As of 2017; the data have no newer name.
FORMER = {"JCHAIN": "IGJ"}


def read(folder: Path, data: str) -> AnnData:
    """Cells with symbols as names."""
    if data == "pbmc68k_reduced":
        return sc.datasets.pbmc68k_reduced().raw.to_adata()
    adata = ad.read_h5ad(folder / f"{data}.h5ad")
    adata.var_names = adata.var["symbol"].astype(str)
    return adata


def expressed(adata: AnnData, cells: NDArray[np.bool_], genes: Sequence[str]) -> str:
    """Share of the cells that express each gene."""
    names, shown = adata.var_names.to_list(), []
    for gene in genes:
        found = next((name for name in (gene, FORMER.get(gene)) if name in names), None)
        if found is not None:
            values = adata.X[np.flatnonzero(cells)][:, names.index(found)]
            shown.append(f"{gene} {(values > 0).sum() / cells.sum():.0%}")
    return ", ".join(shown)


def scored(folder: Path, doubt: Doubt, model: Any) -> list[dict[str, Any]]:
    """Names given, and genes expressed, by cells of the published label that kept it and that did not."""
    adata = read(folder, doubt.data)
    sf.tl.zero_shot_annotate(adata, [doubt.name, doubt.given, *doubt.others], model=model, unknown=None)
    published = adata.obs[doubt.labels_key].isin(doubt.published).to_numpy()
    rows = []
    for name in (doubt.name, doubt.given):
        cells = published & (adata.obs["zero_shot"] == name).to_numpy()
        rows.append(
            {
                "data": doubt.data,
                "published": ", ".join(doubt.published),
                "called": name,
                "cells": f"{cells.sum()} of {published.sum()}",
                f"genes of {doubt.name}": expressed(adata, cells, doubt.markers) if cells.any() else "",
                f"genes of {doubt.given}": expressed(adata, cells, doubt.markers_given) if cells.any() else "",
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Name, look at genes, report."""
    args = parse(arguments(__doc__, "doubtful_labels", model=DEFAULT), argv)
    sf.settings.verbosity = "error"
    model = load_model(args.model)
    rows = [row for doubt in DOUBTS for row in scored(args.data, doubt, model)]
    head = f"# Published labels that names contradict\n\n`{args.command}`\n\nShares are of cells with a count.\n"
    columns = ["data", "published label", "called", "cells", "genes of the published label", "genes of the other name"]
    table = markdown_table("Markers", columns, [tuple(row.values()) for row in rows])
    write_results(args.out, about(args, "scanpy", "anndata") | {"rows": rows}, [head, table])
    print(table)
