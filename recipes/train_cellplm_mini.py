"""Train cellplm-mini, a small CellPLM, on the corpus and save it as a model folder.

    python recipes/train_cellplm_mini.py DATA_FOLDER OUT_FOLDER --hold-out pbmc_3tech_1200 cell_lines_mixology

Cells with counts take part, and those drawn of mean profiles. A context is a sample of a study, or a reference of
profiles; samples with coordinates train the positions. The weights are written in half precision.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from command import arguments, save
from corpus import build
from gene_axes import MAX_CELLS, gene_axes

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from anndata import AnnData

CONFIG = {
    "n_hidden": 160,
    "n_latent": 128,
    "n_layers": 2,
    "n_bottleneck": 64,
    "dropout": 0.1,
    "max_cells": 512,
    "kl_warmup_steps": 200_000,
}
TRAINING = {
    "max_epochs": 12,
    "lr": 5e-5,
    "part_lrs": {"decoder": 1e-3},
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup_steps": 100,
    # A step costs as much as its panel is large.
    "panel_sizes": (1500, 5000),
    "validation_size": 0,
    "gradient_clip_val": 2.0,
}
# Enough for a reference of few types to be a context.
CELLS_PER_PROFILE = 24


@torch.no_grad()
def start_as_pca(model: sf.model.CellPLM, corpus: AnnData, vectors: torch.Tensor, seed: int) -> None:
    """Let the embedder hand on the principal components, centred and scaled, before it has learned anything.

    Its ReLU would cut off half of each component; a bias of two standard deviations lets nearly all of it pass, and the
    group norm behind it takes the bias out again.
    """
    embedder = model.module.embedder
    embedder.genes.copy_(vectors)
    cells = np.random.default_rng(seed).choice(corpus.n_obs, min(5000, corpus.n_obs), replace=False)
    counts = SparseCounts.from_csr(corpus.X[np.sort(cells)])
    components = embedder.aggregate(counts.log_normalised(model.config.library_size))
    torch.nn.init.orthogonal_(embedder.linear.weight, generator=torch.Generator().manual_seed(seed))
    mixed = components @ embedder.linear.weight.T
    spread = mixed.std(0) / mixed.std(0).mean()
    embedder.linear.weight /= spread[:, None]
    embedder.linear.bias.copy_(2 * mixed.std(0).mean() - mixed.mean(0) / spread)


def trained(corpus: AnnData, config: dict[str, Any], training: dict[str, Any], seed: int) -> sf.model.CellPLM:
    """A model of the corpus."""
    sf.model.CellPLM.setup_anndata(corpus, batch_key="sample", spatial_key="spatial")
    model = sf.model.CellPLM(corpus, genes=GeneVocabulary(corpus.var_names, corpus.var["symbol"]), seed=seed, **config)
    print(model.summary_string)
    # The embedder starts as a PCA, not a random projection.
    start_as_pca(model, corpus, gene_axes(corpus, model.config.n_hidden, seed), seed)
    studies = corpus.obs[["sample", "study"]].drop_duplicates().itertuples(index=False)
    genes_of = {study: corpus.var_names[measured] for study, measured in corpus.varm["measured"].items()}
    model.train(measured_genes={row.sample: genes_of[row.study] for row in studies}, seed=seed, **training)
    return model


def main() -> None:
    """Build the corpus, train, save."""
    parser = arguments(__doc__)
    parser.add_argument("--training", type=json.loads, default={}, help="arguments of train to change, as JSON")
    args = parser.parse_args()

    corpus, manifest = build(args.data, hold_out=args.hold_out, cells_per_profile=CELLS_PER_PROFILE, seed=args.seed)
    # Rounded values of other scales have no likelihood of counts.
    corpus = corpus[corpus.obs["values"].isin(MAX_CELLS).to_numpy()].copy()
    manifest = [entry for entry in manifest if entry["values"] in MAX_CELLS]
    n_contexts = corpus.obs["sample"].nunique()
    print(f"{corpus.n_obs:,} cells, {corpus.n_vars:,} genes, {n_contexts} contexts of {len(manifest)} files")
    start = time.perf_counter()
    model = trained(corpus, CONFIG | args.config, TRAINING | args.training, args.seed)
    losses = model.history["reconstruction_train"].iloc[:, 0].astype(float)
    print(
        f"trained for {time.perf_counter() - start:,.0f} s; loss {losses.iloc[0]:,.1f}, at last {losses.iloc[-1]:,.1f}"
    )
    save(model, args.out, manifest=manifest, trained_on=f"{corpus.n_obs:,} human cells of {len(manifest)} files")


if __name__ == "__main__":
    main()
