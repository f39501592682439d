"""Draw the pictures of docs/gallery.md from 700 blood cells that come with scanpy, with weights that ship.

python scripts/render_gallery.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import scanpy as sc

import scfoundry as sf

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "_static" / "gallery"
# The authors' labels, as far as their cells are of these types.
TYPES = {
    "CD14+ Monocyte": "monocyte",
    "CD19+ B": "B cell",
    "CD34+": "CD34+ progenitor",
    "CD56+ NK": "NK cell",
    "Dendritic": "dendritic cell",
}


def main() -> None:
    """Draw all of them."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    mpl.use("Agg")
    FOLDER.mkdir(parents=True, exist_ok=True)
    adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    adata.obs["expert"] = adata.obs["bulk_labels"].astype(str).map(lambda label: TYPES.get(label, "T cell"))

    sf.tl.embed(adata, model="cellplm")
    sf.tl.zero_shot_annotate(adata, [*adata.obs["expert"].unique(), "erythrocyte"])
    hits = sf.tl.retrieve(adata, ["a cell that presents antigen", "a cell that kills other cells"], k=60)
    sc.pp.neighbors(adata, use_rep="X_cellplm")
    sc.tl.umap(adata)
    sf.tl.cell_attention(adata, groupby="expert")
    sf.tl.gene_network(adata, groupby="expert", model="celler", n_genes=60, top_k=40)
    sf.tl.pathway_tokens(adata)
    drawn = {
        "gene_matching": sf.pl.gene_matching(adata, "cellplm"),
        "confusion": sf.pl.confusion(adata, "expert", "zero_shot"),
        "label_scores": sf.pl.label_scores(adata, "bulk_labels"),
        "cells_and_texts": sf.pl.cells_and_texts(adata),
        "retrieval": sf.pl.retrieval(adata, hits)[0],
        "calibration": sf.pl.calibration(adata, "expert"),
        "cell_attention": sf.pl.cell_attention(adata),
        "gene_network": sf.pl.gene_network(adata, group="B cell"),
        "pathway_tokens": sf.pl.pathway_tokens(adata, "expert"),
    }
    for name, ax in drawn.items():
        ax.figure.savefig(FOLDER / f"{name}.png", dpi=80, bbox_inches="tight", pil_kwargs={"optimize": True})
    plt.close("all")
    print(f"wrote {len(drawn)} pictures to {FOLDER}")


if __name__ == "__main__":
    main()
