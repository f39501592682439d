"""How well a pretrained model embeds cells it has never seen, beside PCA and scVI.

    python -m benchmarks embed DATA_FOLDER --model cellplm-mini
    python -m benchmarks embed DATA_FOLDER --fast --model runs/trial

The weights have not seen the scored data: `sf.tl.embed` adapts them, gives their latent alone, or fine-tunes a copy
first, once per seed. PCA and scVI are fitted to the data, scVI once per seed. Prints one table per data set and writes
every number with the settings and the machine.
``--fast`` scores latents alone, beside random weights and PCA, by neighbours, Leiden clusters and silhouettes.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

import scfoundry as sf
from benchmarks.command import RANDOM, arguments, load_model, parse
from benchmarks.embed.peers import PCA_SETTINGS, SCVI_SETTINGS, cached, pca, scvi
from benchmarks.embed.report import score_table
from benchmarks.embed.scores import quick_scores
from benchmarks.embed.tasks import DATA_SETS
from benchmarks.reporting import about, write_results
from scfoundry.model._capabilities import FineTunesExpression, can
from scfoundry.tasks.benchmarking.scib import scib_scores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from benchmarks.embed.scores import Scores
    from benchmarks.embed.tasks import DataSet, Scored
    from scfoundry.data.matrix.cells import Cells

    # Those of one method: one, or one per seed of its training.
    Embeddings = list[NDArray[np.float32]]


def pretrained(
    adata: AnnData, data: DataSet, weights: str, seeds: Sequence[int], cache: Path
) -> tuple[dict[str, Embeddings], dict[str, Any]]:
    """Embeddings of a model by method, and what `sf.tl.embed` found of each.

    Adapted, and what that is made of: without a model, with random weights, with a fine-tuned copy, each latent alone;
    with the batches known and without. Copies, which take their time, know the batches where there are some.
    """
    model = load_model(weights)
    name = type(model).__name__
    twin = load_model(RANDOM + weights.removeprefix(RANDOM))
    embeddings: dict[str, Embeddings] = {}
    facts: dict[str, Any] = {}

    def add(method: str, of_method: Any, batch_key: str | None, **how: Any) -> None:
        found = embedded(adata, of_method, batch_key, **how)
        embeddings[method], facts[method] = [found[0]], [found[1]]

    for batch_key in dict.fromkeys([data.batch_key, None]):
        batches, context = (", batches", "a context per batch") if batch_key else ("", "one context")
        add(f"{name}, adapted{batches}", model, batch_key)
        add(f"random weights, adapted{batches}", twin, batch_key)
        add(f"components alone{batches}", NoLatent(model), batch_key)
        add(f"{name} alone, {context}", model, batch_key, adapt=None)
        if batch_key == data.batch_key and seeds and can(model, FineTunesExpression):
            pairs, found = zip(*(fine_tuned(adata, data, model, cache, seed) for seed in seeds), strict=True)
            method = f"{name} fine-tuned, adapted{batches}"
            embeddings[method], facts[method] = [adapted for adapted, _ in pairs], list(found)
            embeddings[f"{name} fine-tuned alone, {context}"] = [latent for _, latent in pairs]
    return embeddings, facts


def alone(adata: AnnData, weights: str) -> dict[str, NDArray[np.float32]]:
    """Latent of a model and of one with random weights, all cells of one context."""
    model, twin = load_model(weights), load_model(RANDOM + weights.removeprefix(RANDOM))
    latents = {type(model).__name__: model, "random weights": twin}
    return {name: embedded(adata, of, None, adapt=None)[0] for name, of in latents.items()}


def embedded(adata: AnnData, model: Any, batch_key: str | None, **how: Any) -> tuple[NDArray[np.float32], Any]:
    """Embedding, and what was found of its adaptation."""
    sf.tl.embed(adata, model, batch_key=batch_key, key_added="embedding", **how)
    return adata.obsm.pop("embedding"), adata.uns.pop("embedding").get("adaptation", {})


def fine_tuned(
    adata: AnnData, data: DataSet, model: Any, cache: Path, seed: int
) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], dict[str, Any]]:
    """Adapted embedding and latent alone of a copy that learned once from the data, and what was found."""

    def compute() -> tuple[NDArray[np.float32], dict[str, Any]]:
        how: dict[str, Any] = {"batch_key": data.batch_key, "key_added": "embedding", "adapt": None}
        embedder = sf.tl.embed(adata, model, **how, fine_tune=True, rng=seed, return_fitted=True)
        latent, (adapted, found) = adata.obsm.pop("embedding"), embedded(adata, embedder.model, data.batch_key)
        losses = embedder.model.history_["reconstruction_train"].iloc[:, 0].astype(float)
        found |= {"loss_first_epoch": losses.iloc[0], "loss_last_epoch": losses.iloc[-1], "epochs": len(losses)}
        return np.hstack([adapted, latent]), found | {"width": adapted.shape[1]}

    both, found = cached(cache, f"{data.name}.tuned{seed}", {"weights": model.provenance}, compute)
    return tuple(np.hsplit(both, [found["width"]])), found


class NoLatent:
    """The genes of a model without what it knows of them: what is left are the components of the data."""

    def __init__(self, model: Any) -> None:
        self.genes, self.provenance = model.genes, model.provenance

    def embed(self, cells: Cells, compute: Any) -> NDArray[np.float32]:
        """Nothing of every cell, (n_obs, 0)."""
        return np.empty((cells.n_obs, 0), dtype=np.float32)


def score(
    embeddings: Embeddings, scored: Scored, seeds: Sequence[int], unintegrated: NDArray[np.float32] | None = None
) -> Scores:
    """Score one method; by scib-metrics too if there is an unintegrated embedding to compare with."""
    scores: Scores = defaultdict(list)
    for embedding, seed in zip(embeddings, seeds, strict=False):
        # A deterministic embedding is clustered with every seed, each trained one with its own.
        clusterings = seeds if len(embeddings) == 1 else [seed]
        found = quick_scores(embedding[scored.cells], scored, clusterings)
        if unintegrated is not None:
            batches = scored.batches if scored.has_batches else None
            of_cells = (embedding[scored.cells], scored.labels, batches, unintegrated[scored.cells])
            found |= scib_scores(*of_cells, clusterings)
        for name, values in found.items():
            scores[name] += values
    return scores


def score_beside_peers(
    data: DataSet, folder: Path, weights: str, seeds: Sequence[int], cache: Path, *, with_scvi: bool
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Scores of the model, PCA and scVI on one data set, and what is known of the fits of the latter two."""
    adata = data.read(folder)
    scored = data.scored(adata)
    unintegrated, facts = pca(adata, data, cache)
    trained = [scvi(adata, data, cache, seed) for seed in seeds] if with_scvi else []
    embeddings, facts_of_model = pretrained(adata, data, weights, seeds, cache)
    embeddings["PCA"] = [unintegrated]
    if with_scvi:
        embeddings["scVI"] = [embedding for embedding, _ in trained]
    scores = {name: score(of_method, scored, seeds, unintegrated) for name, of_method in embeddings.items()}
    return scores, facts_of_model | {"PCA": facts, "scVI": [of_training for _, of_training in trained]}


def main(argv: Sequence[str] | None = None) -> None:
    """Embed, score, report."""
    parser = arguments(__doc__, "embed", model="cellplm-mini", seeds=3)
    parser.add_argument("--fast", action="store_true", help="neighbours, Leiden clusters and silhouettes only")
    parser.add_argument("--no-scvi", action="store_true", help="leave out scVI, which trains for hours on a CPU")
    args = parse(parser, argv)

    sf.settings.verbosity = "warning"
    if args.fast:
        for data in DATA_SETS:
            adata = data.read(args.data)
            scored = data.scored(adata)
            latents = alone(adata, args.model) | {"PCA": pca(adata, data, args.cache)[0]}
            table = {name: score([latent], scored, [0]) for name, latent in latents.items()}
            print(score_table(data.name, table), flush=True)
        return

    seeds = range(args.seeds)
    results: dict[str, Any] = about(args, "scanpy", "scvi-tools", "scib-metrics", "scikit-learn", "igraph") | {
        "settings": {"seeds": list(seeds), "PCA": PCA_SETTINGS, "scVI": SCVI_SETTINGS},
        "data": {},
    }
    tables = [f"# Embedding\n\n`{args.command}`\n"]
    for data in DATA_SETS:
        scores, fits = score_beside_peers(data, args.data, args.model, seeds, args.cache, with_scvi=not args.no_scvi)
        results["data"][data.name] = {"batch_key": data.batch_key, "scores": scores, "fits": fits}
        tables.append(score_table(data.name, scores))
        print(tables[-1], flush=True)
    write_results(args.out, results, tables)
