"""Train cellnamer-mini, a small model of cells and texts, and save it as a model folder.

    python recipes/train_cellnamer_mini.py DATA_FOLDER OUT_FOLDER --markers panglaodb_markers.tsv.gz --hold-out pbmc3k

Needs .h5ad files with ``obs["cell_type"]``, a table that says what their labels stand for
(``cellnamer_mini/labels.tsv``, or ``--labels`` for your own) and a PanglaoDB table of marker genes. The table of labels
has the columns set, label, terms (Cell Ontology ids joined by ``|``), text (describes what the ontology lacks) and
scale (empty for counts, ``linear`` or ``log2`` for other values). The weights are written in half precision.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from cellnamer_mini.corpus import choose_genes, human_genes, joined, read_labels, read_markers, read_studies

import scfoundry as sf

TABLES = Path(__file__).parent / "cellnamer_mini"


def main() -> None:
    """Read, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--markers", type=Path, required=True, help="PanglaoDB table, .tsv or .tsv.gz")
    parser.add_argument("--labels", type=Path, default=TABLES / "labels.tsv", help="what labels stand for")
    parser.add_argument("--marker-types", type=Path, default=TABLES / "marker_types.tsv", help="ids of marker sets")
    parser.add_argument("--hold-out", nargs="*", default=[], help="file names without .h5ad")
    parser.add_argument("--n-genes", type=int, default=7000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=json.loads, default={}, help="structure to change, as JSON")
    args = parser.parse_args()

    every = human_genes()
    studies = read_studies(args.data, read_labels(args.labels), every, args.hold_out)
    markers = read_markers(args.markers, args.marker_types)
    genes = choose_genes(studies, markers, every, args.n_genes)
    corpus = joined(studies)

    start = time.perf_counter()
    sf.model.CellNamer.setup_anndata(corpus, labels_key="cell_type", batch_key="study")
    model = sf.model.CellNamer(corpus, genes=genes, markers=markers, seed=args.seed, **args.config)
    # Temperature and threshold are the defaults, found on studies that were left out: those of held-out cells of the
    # same studies would be too confident.
    model.train(validation_size=0, seed=args.seed, accelerator="cpu")
    print(f"trained for {time.perf_counter() - start:,.0f} s")

    n_profiles, names = len(model.config.profiles), ", ".join(corpus.obs["study"].unique())
    print(f"{corpus.n_obs:,} labelled cells of {len(studies)} studies, {n_profiles} marker sets, {len(genes):,} genes")
    model.save_pretrained(
        args.out,
        dtype=torch.float16,
        weights="cellnamer-mini",
        licence="BSD-3-Clause",
        trained_on=f"{corpus.n_obs:,} human cells of {names}; {n_profiles} marker sets",
        card=(TABLES / "card.md").read_text(),
    )
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"saved to {args.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
