"""How well a pretrained CellPLM embeds cells it has never seen, beside PCA and scVI.

    python benchmarks/embedding_quality.py DATA_FOLDER --weights cellplm-mini
    python benchmarks/embedding_quality.py DATA_FOLDER --fast --weights runs/trial

CellPLM is not trained on the scored data; PCA and scVI are fitted to it, scVI once per seed. Prints one table per data
set and writes every number with the settings and the machine. ``--fast`` scores one folder of weights by neighbours,
Leiden clusters and silhouettes alone.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quality.data import DATA_SETS
from quality.peers import PCA_SETTINGS, SCVI_SETTINGS, pca, scvi
from quality.report import score_table
from quality.scores import quick_scores
from reporting import surroundings, write_results

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray
    from quality.data import DataSet, Scored
    from quality.scores import Scores

    # Those of one method: one, or one per seed of its training.
    Embeddings = list[NDArray[np.float32]]

RESULTS = Path(__file__).parent / "results" / "embedding_quality.json"


def pretrained(adata: AnnData, data: DataSet, weights: str) -> dict[str, Embeddings]:
    """Embed each batch as its own context, where there are batches, and all cells as one."""
    contexts: dict[str, str | None] = {"CellPLM, one context": None}
    if data.batch_key:
        contexts = {"CellPLM, a context per batch": data.batch_key, **contexts}
    embeddings = {}
    for name, batch_key in contexts.items():
        sf.tl.embed(adata, model=weights, batch_key=batch_key, key_added="embedding")
        embeddings[name] = [adata.obsm.pop("embedding")]
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
            from quality.scib import scib_scores

            found |= scib_scores(embedding[scored.cells], unintegrated[scored.cells], scored, clusterings)
        for name, values in found.items():
            scores[name] += values
    return scores


def score_beside_peers(
    data: DataSet, folder: Path, weights: str, seeds: Sequence[int], cache: Path
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Scores of CellPLM, PCA and scVI on one data set, and what is known of the fits of the latter two."""
    adata = data.read(folder)
    scored = data.scored(adata)
    unintegrated, facts = pca(adata, data, cache)
    trained = [scvi(adata, data, cache, seed) for seed in seeds]
    embeddings = pretrained(adata, data, weights)
    embeddings |= {"PCA": [unintegrated], "scVI": [embedding for embedding, _ in trained]}
    scores = {name: score(of_method, scored, seeds, unintegrated) for name, of_method in embeddings.items()}
    return scores, {"PCA": facts, "scVI": [of_training for _, of_training in trained]}


def main() -> None:
    """Embed, score, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="folder with the .h5ad files")
    parser.add_argument("--weights", default="cellplm-mini", help="name or folder of pretrained weights")
    parser.add_argument("--fast", action="store_true", help="neighbours, Leiden clusters and silhouettes only")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of scVI, and runs of k-means and Leiden")
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="where peers' embeddings rest")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; the tables go beside it")
    args = parser.parse_args()

    sf.settings.verbosity = "warning"
    if args.fast:
        for data in DATA_SETS:
            adata = data.read(args.data)
            scored = data.scored(adata)
            embeddings = pretrained(adata, data, args.weights)
            print(score_table(data.name, {name: score(e, scored, [0]) for name, e in embeddings.items()}))
        return

    seeds = range(args.seeds)
    provenance = sf.model.load_pretrained(args.weights).provenance
    results: dict[str, Any] = {
        "weights": provenance,
        "settings": {"seeds": list(seeds), "PCA": PCA_SETTINGS, "scVI": SCVI_SETTINGS},
        "surroundings": surroundings("scanpy", "scvi-tools", "scib-metrics", "scikit-learn", "igraph"),
        "data": {},
    }
    tables = []
    for data in DATA_SETS:
        scores, fits = score_beside_peers(data, args.data, args.weights, seeds, args.cache)
        results["data"][data.name] = {"batch_key": data.batch_key, "scores": scores, "fits": fits}
        tables.append(score_table(data.name, scores))
        print(tables[-1], flush=True)
    write_results(args.out, results, tables)


if __name__ == "__main__":
    main()
