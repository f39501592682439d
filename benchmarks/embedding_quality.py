"""How well a pretrained CellPLM embeds cells it has never seen, beside PCA and scVI.

    python benchmarks/embedding_quality.py DATA_FOLDER --weights cellplm-mini
    python benchmarks/embedding_quality.py DATA_FOLDER --fast --weights runs/trial

CellPLM is not trained on the scored data; PCA and scVI are fitted to it, scVI once per seed. Prints one table per data
set and writes every number with the settings and the machine. ``--fast`` scores one folder of weights by neighbours,
Leiden clusters and silhouettes alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from quality.data import DATA_SETS
from quality.peers import PCA_SETTINGS, SCVI_SETTINGS, pca, scvi
from quality.report import markdown_table
from quality.scores import quick_scores
from reporting import surroundings, write_results

import scfoundry as sf

if TYPE_CHECKING:
    from anndata import AnnData
    from quality.data import DataSet
    from quality.scores import Scores

RESULTS = Path(__file__).parent / "results" / "embedding_quality.json"
FULL_COLUMNS = (
    "15-NN accuracy",
    "cross-batch 15-NN accuracy",
    "bio conservation",
    "batch correction",
    "total",
    "KMeans NMI",
    "KMeans ARI",
    "silhouette label",
    "iLISI",
    "kBET",
)
QUICK_COLUMNS = (
    "15-NN accuracy",
    "cross-batch 15-NN accuracy",
    "Leiden ARI",
    "Leiden NMI",
    "best Leiden ARI",
    "best Leiden NMI",
    "silhouette label",
    "silhouette batch",
)


def embed_both_ways(adata: AnnData, data: DataSet, weights: str) -> list[str]:
    """Embed each batch as its own context, where there are batches, and all cells as one; return the keys."""
    keys: dict[str, str | None] = {"CellPLM, one context": None}
    if data.batch_key:
        keys = {"CellPLM, a context per batch": data.batch_key} | keys
    for key, batch_key in keys.items():
        sf.tl.embed(adata, model=weights, batch_key=batch_key, key_added=key)
    return list(keys)


def score_beside_peers(data: DataSet, folder: Path, weights: str, n_seeds: int, cache: Path) -> dict[str, Scores]:
    """Scores of CellPLM, PCA and scVI on one data set, a value per seed where there is randomness."""
    from quality.scib import scib_scores

    adata = data.read(folder)
    scored = data.scored(adata)
    seeds = range(n_seeds)
    unintegrated, _ = pca(adata, data, cache)
    embeddings = {key: [adata.obsm[key]] for key in embed_both_ways(adata, data, weights)}
    embeddings["PCA"] = [unintegrated]
    embeddings["scVI"] = [scvi(adata, data, cache, seed)[0] for seed in seeds]

    rows = {}
    for name, runs in embeddings.items():
        scores: Scores = {}
        for run, embedding in enumerate(runs):
            # A deterministic embedding is clustered with every seed, each training of scVI with its own.
            clusterings = seeds if len(runs) == 1 else [run]
            cells = embedding[scored.cells]
            found = scib_scores(cells, unintegrated[scored.cells], scored, clusterings) | quick_scores(cells, scored)
            for score, values in found.items():
                scores.setdefault(score, []).extend(values)
        rows[name] = scores
    return rows


def main() -> None:
    """Embed, score, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="folder with the .h5ad files")
    parser.add_argument("--weights", default="cellplm-mini", help="name or folder of pretrained weights")
    parser.add_argument("--fast", action="store_true", help="neighbours, Leiden clusters and silhouettes only")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of scVI, and runs of k-means")
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="where peers' embeddings rest")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; the tables go beside it")
    args = parser.parse_args()

    sf.settings.verbosity = "warning"
    tables, results = [], {}
    for data in DATA_SETS:
        if args.fast:
            adata = data.read(args.data)
            scored = data.scored(adata)
            keys = embed_both_ways(adata, data, args.weights)
            rows = {key: quick_scores(adata.obsm[key][scored.cells], scored) for key in keys}
        else:
            rows = score_beside_peers(data, args.data, args.weights, args.seeds, args.cache)
        tables.append(markdown_table(data.name, QUICK_COLUMNS if args.fast else FULL_COLUMNS, rows))
        results[data.name] = rows
        print(tables[-1])
    if not args.fast:
        settings = {"weights": args.weights, "seeds": args.seeds, "pca": PCA_SETTINGS, "scvi": SCVI_SETTINGS}
        machine = surroundings("scanpy", "scvi-tools", "scib-metrics", "scikit-learn")
        write_results(args.out, {"settings": settings, "surroundings": machine, "scores": results}, tables)


if __name__ == "__main__":
    main()
