"""Edges of gene networks beside known interactions: do they beat co-expression, and random weights?

    python -m benchmarks gene_network DATA_FOLDER --model NAME

`DATA_FOLDER` also holds ``knowledge/``. Attention of the given weights, and of a small Celler that learns from the very
cells; each with random weights, too. Scores of every data set and method are kept in ``--cache`` and computed once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import scfoundry as sf
from benchmarks.command import arguments, kept, load_model, parse, untrained
from benchmarks.gene_network.tasks import DATA_SETS, KNOWN, Task, baselines, read, scores
from benchmarks.reporting import about, score_table, write_results
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.model._capabilities import HasGeneVectors, can
from scfoundry.tasks.gene_network.genes import named_genes
from scfoundry.tasks.gene_network.network import gene_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    Row = dict[str, Any]

DEFAULT = "langcell"
# The Celler of these cells: genes it knows beside those of the network, structure, training.
N_FURTHER_GENES = 100
STRUCTURE = {"n_hidden": 32, "n_layers": 2, "n_heads": 4, "n_intermediate": 64, "max_length": 256}
TRAINING = {"max_epochs": 8, "lr": 2e-3, "batch_size": 16}
MEASURES = {"auroc": "AUROC", "early_precision_ratio": "Early precision ratio (1 is chance)"}


def trained_here(task: Task, seed: int) -> tuple[sf.model.Celler, AnnData]:
    """A small Celler of the cells, and the cells over the genes that it knows."""
    totals = pd.Series(np.asarray(task.cells.X.sum(0)).ravel(), task.cells.var_names).drop(task.genes)
    cells = task.cells[:, [*task.genes, *totals.nlargest(N_FURTHER_GENES).index]].copy()
    sf.model.Celler.setup_anndata(cells)
    model = sf.model.Celler(cells, seed=seed, **STRUCTURE)
    model.train(**TRAINING, seed=seed, accelerator="cpu", enable_progress_bar=False)
    return model, cells


def weights_of(model: Any, cells: AnnData, task: Task) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Attention between the genes of a task, and the cosine of their vectors where there are any."""
    read_by_model = Cells.of(cells, model.genes, caller="benchmark")
    # The genes in the order of the vocabulary, and where each of the task stands among them.
    about = named_genes(read_by_model, list(task.genes), model.genes, caller="benchmark")
    names = read_by_model.own.alignment.names_of(about)
    order = pd.Series(np.arange(len(names)), names)[task.genes].to_numpy()
    codes = np.zeros(cells.n_obs, dtype=np.int64)
    found = gene_network(model, read_by_model, about, codes, 1, compute=Compute.resolve("cpu"))
    yield "attention", found.weights[0][np.ix_(order, order)]
    if can(model, HasGeneVectors):
        vectors = model.gene_vectors()[about].astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield "gene vectors", (vectors @ vectors.T)[np.ix_(order, order)]


def without_training(task: Task, given: dict[str, Any]) -> list[Row]:
    """Scores of what learns nothing here."""
    rows = [{"method": name, "seed": 0} | scores(task, weights) for name, weights in baselines(task).items()]
    return rows + [row for name, model in given.items() for row in scored(name, 0, model, task.cells, task)]


def with_training(task: Task, seed: int) -> list[Row]:
    """Scores of a Celler that learns from the cells, and of one that does not."""
    name, (model, cells) = "Celler of these cells", trained_here(task, seed)
    rows = scored(name, seed, model, cells, task)
    return rows + scored(f"{name}, random weights", seed, untrained(model, seed=seed), cells, task)


def scored(name: str, seed: int, model: Any, cells: AnnData, task: Task) -> list[Row]:
    """A row per kind of weights of pairs."""
    found = weights_of(model, cells, task)
    return [{"method": f"{name}: {kind}", "seed": seed} | scores(task, weights) for kind, weights in found]


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    parser = arguments(__doc__, "gene_network", model=DEFAULT, seeds=2)
    parser.add_argument("--data-sets", nargs="*", default=list(DATA_SETS), choices=DATA_SETS)
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    model = load_model(args.model)
    rows: list[Row] = []
    for data in args.data_sets:
        for known in KNOWN:
            task = read(args.data, data, known)
            # Genes that the given weights do not know are nobody's to score.
            inside = model.genes.index_of(task.genes) >= 0
            task = Task(task.cells, task.genes[inside], task.known[np.ix_(inside, inside)])
            about_task = {"data": f"{data}, {known}", "n_genes": len(task.genes), "n_known": int(task.known.sum() // 2)}
            given = {args.weights: model, f"{args.weights}, random weights": untrained(model)}
            stem = f"{args.weights}.{data}.{known}"
            found = kept(args.cache / f"{stem}.json", partial(without_training, task, given))
            for seed in range(args.seeds):
                found += kept(args.cache / f"{stem}.{seed}.json", partial(with_training, task, seed))
            rows += [about_task | row for row in found]
    table = pd.DataFrame(rows)
    sizes = table.groupby("data", sort=False)[["n_genes", "n_known"]].first()
    what = "; ".join(f"{data}: {n.n_genes} genes, {n.n_known} known pairs" for data, n in sizes.iterrows())
    tables = [f"# Gene networks\n\n`{args.command}`\n\n{what}.\n"]
    tables += [score_table(title, table, score, columns="data") for score, title in MEASURES.items()]
    results = about(args, "scanpy", "anndata", "scvi-tools")
    results |= {"structure": STRUCTURE, "training": TRAINING, "scores": rows}
    write_results(args.out, results, tables, rows=table)
    print("\n".join(tables))
