"""Train langcell-mini, a small LangCell of the published structure, and save it as a model folder.

    python recipes/train_langcell.py DATA_FOLDER OUT_FOLDER --hold-out pbmc3k

Learns from the labelled cells of the corpus; labels that stand for several types are left out. Everything is learned by
the public methods of `sf.model.LangCell`, from random weights. The weights are written in half precision.
"""

from __future__ import annotations

import json
import time

import numpy as np
from command import arguments, print_losses, save
from corpus import build, labelled, with_medians
from langcell.corpus import balanced
from langcell.texts import add_texts

import scfoundry as sf

CONFIG = {
    "n_hidden": 128,
    "n_layers": 1,
    "n_heads": 4,
    "n_intermediate": 256,
    "dropout": 0.1,
    "max_length": 256,
    "n_text_hidden": 96,
    "n_text_layers": 2,
    "n_text_heads": 2,
    "n_text_intermediate": 192,
    "text_dropout": 0.0,
    "max_text_length": 64,
    "n_latent": 96,
    "temperature": 0.07,
    "alpha": 0.5,
}
CELLS_PER_PROFILE = 24
TRAINING = {"batch_size": 64, "warmup_steps": 30, "weight_decay": 0.01, "validation_size": 0.03}
# Matching costs as much as all else and learns from pairs that similarity takes for alike: it comes last.
STAGES = (
    {"stage": 1, "max_epochs": 1, "lr": 1e-3, "limit_train_batches": 60, "loss_weights": {"cell_cell": 0}},
    {
        "stage": 2,
        "max_epochs": 2,
        "lr": 1.5e-3,
        "loss_weights": {"masked_genes": 0, "cell_cell": 0, "matching": 0},
    },
    {
        "stage": 2,
        "max_epochs": 1,
        "lr": 1e-3,
        "limit_train_batches": 120,
        "loss_weights": {"masked_genes": 0, "cell_cell": 0},
    },
)


def main() -> None:
    """Read, train, save."""
    parser = arguments(__doc__)
    parser.add_argument("--n-cells", type=int, default=100, help="views per type of a study with counts")
    parser.add_argument("--stages", type=json.loads, default=STAGES, help="arguments of every call of train, as JSON")
    args = parser.parse_args()

    corpus, manifest = build(args.data, hold_out=args.hold_out, cells_per_profile=CELLS_PER_PROFILE, seed=args.seed)
    genes = with_medians(corpus)
    cells = labelled(corpus[~corpus.obs["cell_type"].str.contains("|", regex=False).to_numpy()])
    adata = balanced(cells, n_cells=args.n_cells, rng=np.random.default_rng(args.seed))
    n_types = cells.obs["cell_type"].nunique()
    print(f"{cells.n_obs:,} labelled cells of {n_types} types, {adata.n_obs:,} views, {len(genes):,} genes")

    sf.model.LangCell.setup_anndata(adata, text_keys=add_texts(adata))
    model = sf.model.LangCell(adata, genes=genes, seed=args.seed, **(CONFIG | args.config))
    print(model)
    for how in args.stages:
        start = time.process_time()
        model.train(seed=args.seed, accelerator="cpu", **(TRAINING | how))
        print(f"stage {how['stage']}: {time.process_time() - start:,.0f} s of one core", flush=True)
    print_losses(model)
    trained_on = f"{cells.n_obs:,} labelled human cells of {n_types} types, with texts of the Cell Ontology"
    save(model, args.out, manifest=manifest, trained_on=trained_on)


if __name__ == "__main__":
    main()
