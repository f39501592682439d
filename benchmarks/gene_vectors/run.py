"""Vectors of genes from a graph: are genes alike whose interaction was left out?

    python -m benchmarks gene_vectors DATA_FOLDER

`DATA_FOLDER` holds ``knowledge/``. A tenth of the interactions among cancer genes of which STRING is sure is left out,
anew for every seed. The cosine of two vectors is to tell them from as many pairs that STRING does not list at all.
Beside the vectors that `sf.pp.gene_vectors_from_graph` learns: the eigenvectors that it learns from, and how many
interactions the two genes have (the logarithm of the product).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

import scfoundry as sf
from benchmarks.command import arguments, parse
from benchmarks.reporting import score_table, surroundings, write_results
from scfoundry.nn.graph_autoencoder import N_FEATURES, normalised_adjacency, spectral_features
from scfoundry.pp._gene_vectors_from_graph import _graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# A pair interacts if STRING is that sure of it (its own word is "high confidence").
CONFIDENT, LEFT_OUT = 700, 0.1
WIDTHS = (128, 512)


def scored(every: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Area under the ROC curve of every method, with one tenth left out."""
    rng = np.random.default_rng(seed)
    sure = every[every["score"] >= CONFIDENT].sort_values(["gene_a", "gene_b"], ignore_index=True)
    left_out = rng.random(len(sure)) < LEFT_OUT
    shown = sure[~left_out]
    genes, places, weights = _graph(shown, "score")
    above = sparse.coo_array((weights, places), shape=(len(genes), len(genes))).tocsr()
    graph = sparse.csr_matrix(above + above.T)
    position = pd.Series(np.arange(len(genes)), genes)
    listed = np.zeros(graph.shape, dtype=bool)
    inside = every[every["gene_a"].isin(genes) & every["gene_b"].isin(genes)]
    listed[position[inside["gene_a"]], position[inside["gene_b"]]] = True
    others = np.argwhere(np.triu(~(listed | listed.T), 1))
    hidden = sure[left_out & sure["gene_a"].isin(genes) & sure["gene_b"].isin(genes)]
    true = np.stack([position[hidden["gene_a"]], position[hidden["gene_b"]]], 1)
    false = others[rng.choice(len(others), len(true), replace=False)]

    degrees = np.log(np.diff(graph.indptr))
    found = {"number of interactions": (degrees[true].sum(1), degrees[false].sum(1))}
    vectors = {"leading eigenvectors": spectral_features(normalised_adjacency(graph), N_FEATURES, seed)}
    for width in WIDTHS:
        table = sf.pp.gene_vectors_from_graph(shown, width, weight="score", rng=seed, device="cpu")
        vectors[f"gene_vectors_from_graph, {width} dimensions"] = table.loc[genes].to_numpy()
    found |= {name: (cosines(of_genes, true), cosines(of_genes, false)) for name, of_genes in vectors.items()}
    about = {"data": "STRING, cancer genes", "seed": seed, "n_genes": len(genes), "n_left_out": len(true)}
    return [about | {"method": name, "auroc": auroc(*values)} for name, values in found.items()]


def cosines(vectors: NDArray[np.floating], pairs: NDArray[np.int64]) -> NDArray[np.floating]:
    """Cosine of the two genes of every pair."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1)


def auroc(true: NDArray[np.floating], false: NDArray[np.floating]) -> float:
    """Chance that a true pair scores higher than a false one, ties counting half."""
    return float(stats.mannwhitneyu(true, false).statistic / (len(true) * len(false)))


def main(argv: Sequence[str] | None = None) -> None:
    """Learn, score, report."""
    args = parse(arguments(__doc__, "gene_vectors", seeds=3), argv)
    sf.settings.verbosity = "error"
    every = pd.read_csv(args.data / "knowledge" / "ppi_cancer_genes.tsv.gz", sep="\t")
    rows = [row for seed in range(args.seeds) for row in scored(every, seed)]
    head = f"# Vectors of genes from a graph\n\n`{args.command}`\n"
    table = score_table("AUROC of interactions that were left out", pd.DataFrame(rows), "auroc", columns="data")
    results = {"command": args.command, "surroundings": surroundings("torch-geometric"), "scores": rows}
    write_results(args.out, results, [head, table])
    print(table)
