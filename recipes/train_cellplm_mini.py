"""Train a small CellPLM on a folder of .h5ad files and save it as a model folder.

    python recipes/train_cellplm_mini.py DATA_FOLDER OUT_FOLDER --hold-out pbmc_3tech_1200 cell_lines_mixology

Every file with raw human counts takes part unless it is held out. A context is a section, batch, donor or sample of one
file, the first of these obs columns with 50 cells per value or more; files with ``obsm["spatial"]`` train
the positions. The vocabulary is made of the protein-coding and lncRNA genes that most files measure. The weights are
written in half precision, with a short card for a person to complete.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.checks import MatrixState, inspect_matrix
from scfoundry.nn.counts import SparseCounts

CONFIG = {
    "n_hidden": 160,
    "n_latent": 128,
    "n_layers": 2,
    "n_bottleneck": 64,
    "dropout": 0.1,
    "max_cells": 512,
    "kl_warmup_steps": 200_000,
}
CONTEXT_KEYS = ("section", "batch", "donor", "sample")
MIN_CELLS = 50
BIOTYPES = ("protein_coding", "lncRNA")


def read_sets(folder: Path, hold_out: list[str]) -> dict[str, ad.AnnData]:
    """Files with raw counts and human genes, by name."""
    sets = {}
    for path in sorted(folder.glob("*.h5ad")):
        if path.stem in hold_out:
            print(f"{path.stem}: held out")
            continue
        adata = ad.read_h5ad(path)
        state = inspect_matrix(adata).state
        if state is not MatrixState.COUNTS:
            print(f"{path.stem}: skipped, its X holds {state} values, not raw counts")
            continue
        sets[path.stem] = adata
    return sets


def choose_vocabulary(sets: dict[str, ad.AnnData], n_genes: int) -> GeneVocabulary:
    """The genes that most files measure; among those, the most often detected."""
    table = sf.datasets.human_genes()
    table = table[table["biotype"].isin(BIOTYPES)]
    everything = GeneVocabulary(table.index, table["symbol"])
    support = pd.DataFrame(0.0, index=table.index, columns=["files", "detected"])
    for adata in sets.values():
        alignment = everything.align(adata, min_overlap=0)
        cells = alignment.apply(sparse.csr_matrix(adata.X))
        support.iloc[alignment.measured, 0] += 1
        support["detected"] += np.bincount(cells.indices, minlength=len(everything)) / adata.n_obs
    support = support[support["detected"] > 0].sort_values(["files", "detected"], ascending=False)
    return everything.subset(everything.index_of(np.sort(support.index[:n_genes])))


def concatenate(sets: dict[str, ad.AnnData], genes: GeneVocabulary) -> tuple[ad.AnnData, dict[str, np.ndarray]]:
    """All cells over the vocabulary, their contexts, and the genes measured in each context."""
    parts, measured = [], {}
    for name, adata in sets.items():
        alignment = genes.align(adata)
        key = next(
            (k for k in CONTEXT_KEYS if k in adata.obs and adata.n_obs >= MIN_CELLS * adata.obs[k].nunique()), None
        )
        labels = adata.obs[key].astype(str) if key else pd.Series("all", index=adata.obs_names)
        part = ad.AnnData(alignment.apply(sparse.csr_matrix(adata.X)), obs=pd.DataFrame(index=adata.obs_names))
        part.obs["context"] = (name + "/" + labels).to_numpy()
        part.var_names = genes.ids
        part.obsm["spatial"] = np.asarray(adata.obsm.get("spatial", np.full((adata.n_obs, 2), np.nan)))[:, :2]
        measured |= dict.fromkeys(part.obs["context"].unique(), genes.ids[alignment.measured])
        parts.append(part)
    return ad.concat(parts, index_unique="-"), measured


def initial_gene_vectors(adata: ad.AnnData, n_vectors: int, min_genes: int, rng: int) -> torch.Tensor:
    """Principal axes of the corpus as gene vectors, (G, D): the embedder starts as a PCA, not a random projection.

    Axes of log expression standardised within each context, so that they separate cells, not studies. Panels of few
    genes are left out.
    """
    blocks = []
    for rows in adata.obs.groupby("context", observed=True).indices.values():
        counts = adata.X[rows]
        if np.unique(counts.indices).size < min_genes or len(rows) < MIN_CELLS:
            continue
        totals = np.asarray(counts.sum(1)).clip(1)
        log = np.log1p(counts.multiply(1e4 / totals).toarray().astype(np.float32))
        spread = log.std(0)
        blocks.append(((log - log.mean(0)) / np.where(spread > 0, spread, 1)).clip(-10, 10))
    standardised = np.vstack(blocks)
    _, _, axes = randomized_svd(standardised, n_vectors, random_state=rng)
    print(f"gene vectors from {len(standardised):,} cells of {len(blocks)} contexts")
    # All axes weigh the same; rare genes weigh more than common ones, though less than standardisation would have it.
    detected = np.asarray(adata.X.astype(bool).mean(0)).ravel().clip(1e-4)
    vectors = axes.T / detected[:, None] ** 0.25
    return torch.from_numpy((vectors / vectors.std()).astype(np.float32))


@torch.no_grad()
def start_as_pca(model: sf.model.CellPLM, adata: ad.AnnData, vectors: torch.Tensor) -> None:
    """Let the embedder hand on the principal components, centred and scaled, before it has learned anything.

    Its ReLU would cut off half of each component; a bias of two standard deviations lets nearly all of it pass, and the
    group norm behind it takes the bias out again.
    """
    embedder = model.module.embedder
    embedder.genes.copy_(vectors)
    cells = np.random.default_rng(0).choice(adata.n_obs, min(5000, adata.n_obs), replace=False)
    counts = SparseCounts.from_csr(adata.X[np.sort(cells)])
    components = embedder.aggregate(counts.log_normalised(model.config.library_size))
    torch.nn.init.orthogonal_(embedder.linear.weight)
    mixed = components @ embedder.linear.weight.T
    spread = mixed.std(0) / mixed.std(0).mean()
    embedder.linear.weight /= spread[:, None]
    embedder.linear.bias.copy_(2 * mixed.std(0).mean() - mixed.mean(0) / spread)


def main() -> None:
    """Read, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hold-out", nargs="*", default=[], help="file names without .h5ad")
    parser.add_argument("--n-genes", type=int, default=14_000)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--decoder-lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument(
        "--panel-sizes", type=int, nargs=2, default=(1500, 5000), help="fewest and most genes shown per step"
    )
    parser.add_argument("--pca-start", type=float, default=0.3, help="scale of the principal axes at the start")
    parser.add_argument("--min-genes", type=int, default=5000, help="detected genes of a context that shapes the axes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=json.loads, default={}, help="config values to change, as JSON")
    parser.add_argument("--checkpoint-dir", type=Path)
    args = parser.parse_args()

    sets = read_sets(args.data, args.hold_out)
    genes = choose_vocabulary(sets, args.n_genes)
    adata, measured = concatenate(sets, genes)
    print(f"{adata.n_obs:,} cells, {len(genes):,} genes, {len(measured)} contexts from {len(sets)} files")

    sf.model.CellPLM.setup_anndata(adata, batch_key="context", spatial_key="spatial")
    model = sf.model.CellPLM(adata, genes=genes, seed=args.seed, **(CONFIG | args.config))
    print(model.summary_string)
    if args.pca_start:
        vectors = initial_gene_vectors(adata, model.config.n_hidden, args.min_genes, args.seed)
        start_as_pca(model, adata, vectors * args.pca_start)
    start = time.perf_counter()
    model.train(
        args.epochs,
        lr=args.lr,
        part_lrs={"decoder": args.decoder_lr},
        weight_decay=args.weight_decay,
        schedule="cosine",
        warmup_steps=100,
        validation_size=0.1,
        measured_genes=measured,
        panel_sizes=args.panel_sizes,
        seed=args.seed,
        checkpoint_dir=args.checkpoint_dir,
        gradient_clip_val=2.0,
    )
    history = {key: values.iloc[:, 0].astype(float) for key, values in model.history.items()}
    print(f"trained for {time.perf_counter() - start:,.0f} s")
    for key in ("loss_train", "loss_validation", "reconstruction_validation"):
        if key in history:
            print(f"{key}: first {history[key].iloc[0]:.2f}, last {history[key].iloc[-1]:.2f}")
    model.save_pretrained(
        args.out,
        dtype=torch.float16,
        weights=args.out.name,
        licence="BSD-3-Clause",
        trained_on=f"{adata.n_obs:,} human cells of {', '.join(sets)}",
    )
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"saved to {args.out}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
