"""Train celler-mini, a small Celler, on the corpus and save it as a model folder.

    python recipes/train_celler_mini.py DATA_FOLDER OUT_FOLDER --hold-out pbmc10k_citeseq liver_he_2839

By the public methods of `sf.model.Celler`: first from values that are hidden, guessed from the other genes (GEP) and
from the cell as a whole (GEPC), of all cells of the corpus; then from the cell types of those that have a name of their
own. Gene vectors start as principal axes of the corpus. The weights are written in half precision.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from command import arguments, print_losses, save
from corpus import build
from gene_axes import gene_axes

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.nn.label_loss import LabelLoss

if TYPE_CHECKING:
    from anndata import AnnData

CONFIG = {
    "n_hidden": 128,
    "n_layers": 2,
    "n_heads": 4,
    "n_intermediate": 256,
    "dropout": 0.1,
    "mask_ratio": (0.25, 0.5, 0.75),
}
# Cells lose genes while the model learns, at random: so many positions cost little, and every type of gene is seen.
LEARNING = {"max_length": 192, "truncation": "random"}
# What is read afterwards.
READING = {"max_length": 1024, "truncation": "expression"}
TRAINING = {"max_epochs": 1, "lr": 1e-3, "batch_size": 16, "weight_decay": 0.01, "validation_size": 0.03}
LABELS = {"max_epochs": 4, "lr": 5e-4, "batch_size": 16, "validation_size": 0.03}
CELLS_PER_PROFILE = 24
# Cells of a type in a study that labels are learned from.
CELLS_PER_TYPE = 150


def with_labels(corpus: AnnData, seed: int) -> AnnData:
    """Cells of one known type, at most `CELLS_PER_TYPE` of each in a study."""
    rng = np.random.default_rng(seed)
    types = corpus.obs["cell_type"].astype(str)
    # A union of types, "NK cell|T cell", names none.
    known = corpus.obs[(types != "") & ~types.str.contains("|", regex=False)]
    groups = known.groupby(["study", "cell_type"], observed=True).groups.values()
    kept = np.concatenate([rng.permutation(cells)[:CELLS_PER_TYPE] for cells in groups])
    return corpus[np.sort(corpus.obs_names.get_indexer(kept))].copy()


def trained(
    corpus: AnnData, config: dict[str, Any], training: dict[str, Any], labels: dict[str, Any], seed: int
) -> sf.model.Celler:
    """A model of the corpus."""
    sf.model.Celler.setup_anndata(corpus)
    genes = GeneVocabulary(corpus.var_names, corpus.var["symbol"])
    model = sf.model.Celler(corpus, genes=genes, seed=seed, **(LEARNING | config))
    print(model.summary_string)
    with torch.no_grad():
        model.module.genes.weight[: len(genes)] = gene_axes(corpus, model.config.n_hidden, seed)
    model.train(seed=seed, accelerator="cpu", **training)
    print_losses(model)
    labelled = with_labels(corpus, seed)
    print(f"{labelled.n_obs:,} cells of {labelled.obs['cell_type'].nunique()} types")
    loss = LabelLoss.of("balanced_softmax")
    model.train_classifier(labelled, labelled.obs["cell_type"], loss=loss, seed=seed, accelerator="cpu", **labels)
    print_losses(model)
    return model


def main() -> None:
    """Build the corpus, train, save."""
    parser = arguments(__doc__)
    parser.add_argument("--training", type=json.loads, default={}, help="arguments of train to change, as JSON")
    parser.add_argument("--labels", type=json.loads, default={}, help="arguments of train_classifier, as JSON")
    args = parser.parse_args()

    corpus, manifest = build(args.data, hold_out=args.hold_out, cells_per_profile=CELLS_PER_PROFILE, seed=args.seed)
    print(f"{corpus.n_obs:,} cells, {corpus.n_vars:,} genes of {len(manifest)} files")
    start = time.process_time()
    model = trained(corpus, CONFIG | args.config, TRAINING | args.training, LABELS | args.labels, args.seed)
    print(f"trained for {time.process_time() - start:,.0f} s of one core")
    trained_on = f"{corpus.n_obs:,} human cells of {len(manifest)} files"
    save(model, args.out, READING, manifest=manifest, trained_on=trained_on)


if __name__ == "__main__":
    main()
