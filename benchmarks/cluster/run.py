"""Clusters of cells by what scPaLM makes of them: the cell token, or its pathway tokens, put together in several ways.

    python -m benchmarks cluster DATA_FOLDER --model NAME

Each cell is embedded by itself, nothing is fitted to the data (``adapt=None``). Leiden at resolution 1 on 15
neighbours, once per seed, against labels; silhouettes of the labels on the embedding itself. Beside it stand the same
model with random weights scaled to the cells, one per seed, and what is fitted to the very cells: PCA, and scVI if
asked for. What was computed is kept in ``--cache``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

import scfoundry as sf
from benchmarks.command import arguments, kept, load_model, parse
from benchmarks.embed.peers import PCA_SETTINGS, SCVI_SETTINGS, pca, scvi
from benchmarks.embed.run import embedded
from benchmarks.embed.tasks import DataSet
from benchmarks.pathway_tokens.tasks import scaled_random
from benchmarks.reporting import about, score_table, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.embed.tasks import Scored

    Row = dict[str, Any]

DEFAULT = "scpalm-mini"
DATA_SETS = {
    data.name: data
    for data in (
        DataSet("pbmc10k_citeseq"),
        DataSet("pdac_a_indrop"),
        DataSet("cell_lines_mixology", batch_key="technology"),
    )
}
POOLINGS = {"cell": "cell token", "mean": "mean of pathway tokens", "concatenated": "concatenated pathway tokens"}
# Neighbours are looked for in so many components of wider embeddings.
N_COMPONENTS = 50
MEASURES = {"ari": "Leiden ARI", "nmi": "Leiden NMI", "silhouette": "Silhouette of labels, from -1 to 1"}


def embeddings(adata: AnnData, model: Any) -> dict[str, NDArray[np.float32]]:
    """What a model makes of cells, by the way it is put together."""
    found = {
        method: embedded(adata, model.copy(pooling=pooling), None, adapt=None)[0]
        for pooling, method in POOLINGS.items()
    }
    of_codes = AnnData(adata.X, adata.obs[[]], adata.var)
    sf.tl.pathway_tokens(of_codes, model=model)
    return found | {"frequencies of codes": of_codes.obsm["X_pathway_tokens"].to_numpy()}


def scores(method: str, embedding: NDArray[np.float32], scored: Scored, seeds: Sequence[int]) -> list[Row]:
    """Agreement of clusters with labels, a row per seed; the silhouette has none."""
    embedding = embedding[scored.cells]
    silhouette = float(silhouette_score(embedding, scored.labels))
    reduced = embedding
    if embedding.shape[1] > N_COMPONENTS and method.startswith(POOLINGS["concatenated"]):
        reduced = PCA(N_COMPONENTS, svd_solver="randomized", random_state=0).fit_transform(embedding)
    cells = AnnData(obsm={"X": reduced}, obs={"label": scored.labels})
    rows = []
    for seed in seeds:
        found = sf.metrics.clustering(cells, use_rep="X", labels_key="label", resolutions=(1.0,), rng=seed)
        values = {"ari": float(found["ari_at_1"]), "nmi": float(found["nmi_at_1"]), "silhouette": silhouette}
        rows.append({"method": method, "seed": seed} | values)
    return rows


def of_weights(data: DataSet, folder: Path, model: Any, suffix: str, seeds: Sequence[int]) -> list[Row]:
    """Scores of everything that a model makes of a data set."""
    adata = data.read(folder)
    scored = data.scored(adata)
    found = embeddings(adata, model)
    return [row for method, array in found.items() for row in scores(method + suffix, array, scored, seeds)]


def of_random_weights(data: DataSet, folder: Path, model: Any, seed: int) -> list[Row]:
    """The same of a model of this structure that has learned nothing."""
    fresh = scaled_random(model, data.read(folder), seed)
    return of_weights(data, folder, fresh, ", random weights", [seed])


def of_peers(data: DataSet, folder: Path, cache: Path, seeds: Sequence[int], *, with_scvi: bool) -> list[Row]:
    """Scores of PCA, or of scVI, which is trained once per seed."""
    adata = data.read(folder)
    scored = data.scored(adata)
    if not with_scvi:
        return scores("PCA", pca(adata, data, cache)[0], scored, seeds)
    return [row for seed in seeds for row in scores("scVI", scvi(adata, data, cache, seed)[0], scored, [seed])]


def main(argv: Sequence[str] | None = None) -> None:
    """Embed, cluster, report."""
    parser = arguments(__doc__, "cluster", model=DEFAULT, seeds=3)
    parser.add_argument("--scvi", action="store_true", help="scVI, too, which trains for an hour on a CPU")
    parser.add_argument("--data-sets", nargs="*", default=list(DATA_SETS), choices=DATA_SETS)
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    model, seeds, rows = load_model(args.model), range(args.seeds), []
    for name in args.data_sets:
        data, stem = DATA_SETS[name], f"{name}.{args.seeds}"
        compute = partial(of_weights, data, args.data, model, "", seeds)
        found = kept(args.cache / f"{args.weights}.{stem}.json", compute)
        for seed in seeds:
            compute = partial(of_random_weights, data, args.data, model, seed)
            found += kept(args.cache / f"{args.weights}.{name}.random{seed}.json", compute)
        for peer in ["pca", "scvi"][: 1 + args.scvi]:
            compute = partial(of_peers, data, args.data, args.cache, seeds, with_scvi=peer == "scvi")
            found += kept(args.cache / f"{peer}.{stem}.json", compute)
        rows += [{"data": name} | row for row in found]
    table = pd.DataFrame(rows)
    tables = [f"# Clusters\n\n`{args.command}`\n"]
    tables += [score_table(title, table, score, columns="data") for score, title in MEASURES.items()]
    results = about(args, "scanpy", "anndata", "scvi-tools", "scikit-learn", "igraph")
    settings = {"n_neighbors": 15, "resolution": 1.0, "components of concatenated tokens": N_COMPONENTS}
    results |= {"settings": settings | {"PCA": PCA_SETTINGS, "scVI": SCVI_SETTINGS}, "scores": rows}
    write_results(args.out, results, tables)
    print("\n".join(tables))
