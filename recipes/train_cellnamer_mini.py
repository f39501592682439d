"""Train cellnamer-mini, a small model of cells and texts, and save it as a model folder.

    python recipes/train_cellnamer_mini.py DATA_FOLDER OUT_FOLDER --hold-out pbmc3k

Learns from the labelled cells of the corpus, and from the markers of its cell types, by the public methods of
`sf.model.CellNamer`. The weights are written in half precision.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import scfoundry as sf

if __package__:
    from recipes.cards import filled
    from recipes.corpus import build, labelled, with_medians
    from recipes.markers import marker_genes
else:
    from cards import filled
    from corpus import build, labelled, with_medians
    from markers import marker_genes

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["train"]

CARD = Path(__file__).parent / "cellnamer_mini" / "card.md"


def train(cells: AnnData, seed: int = 0, **config: object) -> sf.model.CellNamer:
    """Train on labelled cells of the corpus."""
    sf.model.CellNamer.setup_anndata(cells, labels_key="cell_type", batch_key="study")
    model = sf.model.CellNamer(cells, genes=with_medians(cells), markers=marker_genes(cells), seed=seed, **config)
    # Temperature and threshold are the defaults, found on studies that were left out: those of held-out cells of the
    # same studies would be too confident.
    model.train(validation_size=0, seed=seed, accelerator="cpu")
    return model


def main() -> None:
    """Read, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--hold-out", nargs="*", default=[], help="file names without .h5ad")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=json.loads, default={}, help="structure to change, as JSON")
    args = parser.parse_args()

    corpus, manifest = build(args.data, hold_out=args.hold_out, seed=args.seed)
    cells = labelled(corpus)
    start = time.perf_counter()
    model = train(cells, args.seed, **args.config)
    n_types, n_studies = len(model.config.types), cells.obs["study"].nunique()
    print(
        f"{cells.n_obs:,} labelled cells of {n_studies} studies, {n_types} types: {time.perf_counter() - start:,.0f} s"
    )
    model.save_pretrained(
        args.out,
        dtype=torch.float16,
        weights="cellnamer-mini",
        licence="BSD-3-Clause",
        trained_on=f"{cells.n_obs:,} labelled human cells of {n_types} types, {n_studies} studies",
        card=filled(CARD, manifest),
    )
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"saved to {args.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
