"""Train cellnamer-mini, a small model of cells and texts, and save it as a model folder.

    python recipes/train_cellnamer_mini.py DATA_FOLDER OUT_FOLDER --hold-out pbmc3k

Learns from the labelled cells of the corpus, and from the markers of its cell types, by the public methods of
`sf.model.CellNamer`. The weights are written in half precision.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import scfoundry as sf

if __package__:
    from recipes.command import arguments, save
    from recipes.corpus import build, labelled, with_medians
    from recipes.markers import marker_genes
else:
    from command import arguments, save
    from corpus import build, labelled, with_medians
    from markers import marker_genes

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["train"]


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
    parser = arguments(__doc__)
    args = parser.parse_args()

    corpus, manifest = build(args.data, hold_out=args.hold_out, seed=args.seed)
    cells = labelled(corpus)
    start = time.perf_counter()
    model = train(cells, args.seed, **args.config)
    n_types, n_studies = len(model.config.types), cells.obs["study"].nunique()
    print(
        f"{cells.n_obs:,} labelled cells of {n_studies} studies, {n_types} types: {time.perf_counter() - start:,.0f} s"
    )
    trained_on = f"{cells.n_obs:,} labelled human cells of {n_types} types, {n_studies} studies"
    save(model, args.out, manifest=manifest, trained_on=trained_on)


if __name__ == "__main__":
    main()
