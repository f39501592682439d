"""Train langcell-mini, a small model of cells and texts, and save it as a model folder.

    python recipes/train_langcell_mini.py DATA_FOLDER OUT_FOLDER --markers panglaodb_markers.tsv.gz --hold-out pbmc3k

Needs .h5ad files with ``obs["cell_type"]``, a table that says what their labels stand for
(``langcell_mini/labels.tsv``, or ``--labels`` for your own) and a PanglaoDB table of marker genes. The table of labels
has the columns set, label, terms (Cell Ontology ids joined by ``|``), text (describes what the ontology lacks) and
scale (empty for counts, ``linear`` or ``log2`` for other values). The weights are written in half precision.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from langcell_mini.corpus import choose_vocabulary, human_genes, read_labels, read_markers, read_sets
from langcell_mini.saving import as_model, with_medians

from scfoundry.data.labels.ontology import CellOntology
from scfoundry.model.cellnamer._course import Settings, train

TABLES = Path(__file__).parent / "langcell_mini"


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
    parser.add_argument("--settings", type=json.loads, default={}, help="training settings to change, as JSON")
    args = parser.parse_args()

    genes = human_genes()
    sets = read_sets(args.data, read_labels(args.labels), genes, args.hold_out)
    markers = read_markers(args.markers, args.marker_types, genes)
    chosen = choose_vocabulary(sets, markers, args.n_genes)
    position = np.full(len(genes), -1)
    position[chosen] = np.arange(len(chosen))
    markers = {i: found for i, at in markers.items() if len(found := position[at][position[at] >= 0])}
    n_cells = sum(study.counts.shape[0] for study in sets)
    print(f"{n_cells:,} labelled cells of {len(sets)} studies, {len(markers)} marker sets, {len(chosen):,} genes")

    start = time.perf_counter()
    scorer = train(
        [study.subset(chosen) for study in sets],
        markers,
        CellOntology.load(),
        seed=args.seed,
        config=args.config,
        settings=Settings(**args.settings),
    )
    print(f"trained for {time.perf_counter() - start:,.0f} s")
    model = as_model(scorer, with_medians(genes.subset(chosen), genes, sets))
    model.save_pretrained(
        args.out,
        dtype=torch.float16,
        weights=args.out.name,
        licence="BSD-3-Clause",
        trained_on=f"{n_cells:,} human cells of {', '.join(study.name for study in sets)}; {len(markers)} marker sets",
        card=(TABLES / "card.md").read_text(),
    )
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"saved to {args.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
