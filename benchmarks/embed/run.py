"""How well a pretrained model embeds cells it has never seen, beside PCA and scVI.

    python -m benchmarks embed DATA_FOLDER --model cellplm-mini
    python -m benchmarks embed DATA_FOLDER --fast --model runs/trial

The model is not trained on the scored data: `sf.tl.embed` adapts it, or gives its latent alone. PCA and scVI are fitted
to it, scVI once per seed. Prints one table per data set and writes every number with the settings and the machine.
``--fast`` scores one folder of weights by neighbours, Leiden clusters and silhouettes alone.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import scfoundry as sf
from benchmarks.command import RANDOM, arguments, load_model, parse
from benchmarks.embed.peers import PCA_SETTINGS, SCVI_SETTINGS, pca, scvi
from benchmarks.embed.report import score_table
from benchmarks.embed.scores import quick_scores
from benchmarks.embed.tasks import DATA_SETS
from benchmarks.reporting import about, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray

    from benchmarks.embed.scores import Scores
    from benchmarks.embed.tasks import DataSet, Scored

    # Those of one method: one, or one per seed of its training.
    Embeddings = list[NDArray[np.float32]]


def pretrained(adata: AnnData, data: DataSet, weights: str) -> dict[str, Embeddings]:
    """Adapted, as its twin with random weights is, and the latent alone; each with the batches known and without."""
    model = load_model(weights)
    name = type(model).__name__
    twin = load_model(RANDOM + weights.removeprefix(RANDOM))
    calls: dict[str, tuple[Any, bool, str | None]] = {}
    if data.batch_key:
        calls |= {
            f"{name}, adapted, batches": (model, True, data.batch_key),
            "random weights, adapted, batches": (twin, True, data.batch_key),
            f"{name} alone, a context per batch": (model, False, data.batch_key),
        }
    calls |= {
        f"{name}, adapted": (model, True, None),
        "random weights, adapted": (twin, True, None),
        f"{name} alone, one context": (model, False, None),
    }
    embeddings = {}
    for method, (of_method, adapt, batch_key) in calls.items():
        sf.tl.embed(adata, of_method, adapt=adapt, batch_key=batch_key, key_added="embedding")
        embeddings[method] = [adata.obsm.pop("embedding")]
    return embeddings


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
            from benchmarks.embed.scib import scib_scores

            found |= scib_scores(embedding[scored.cells], unintegrated[scored.cells], scored, clusterings)
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
    embeddings = pretrained(adata, data, weights)
    embeddings["PCA"] = [unintegrated]
    if with_scvi:
        embeddings["scVI"] = [embedding for embedding, _ in trained]
    scores = {name: score(of_method, scored, seeds, unintegrated) for name, of_method in embeddings.items()}
    return scores, {"PCA": facts, "scVI": [of_training for _, of_training in trained]}


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
            embeddings = pretrained(adata, data, args.model)
            print(score_table(data.name, {name: score(e, scored, [0]) for name, e in embeddings.items()}))
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
