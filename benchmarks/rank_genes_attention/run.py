"""Genes by attention in tumour cells: is it more than their mean expression, and does it agree with a test?

    python -m benchmarks rank_genes_attention DATA_FOLDER --model NAME

200 malignant and 200 other cells of each tumour, and a tumour against islets of another study. Genes are ordered by the
mean attention of tumour cells, and by how far it is above that of normal cells; beside Wilcoxon's test of expression
stand mean expression (the abundance confound) and the same network with random weights. Scores of every data set and
method are kept in ``--cache`` and computed once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

import scfoundry as sf
from benchmarks.command import arguments, kept, load_model, parse, untrained
from benchmarks.rank_genes_attention.tasks import (
    DATA_SETS,
    MIN_CELLS,
    N_CELLS,
    N_TOP,
    Task,
    by_attention,
    by_expression,
    read,
    scores,
)
from benchmarks.reporting import about, score_table, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    Row = dict[str, Any]

DEFAULT = "celllm-mini"
MEASURES = {
    "level_mean": "Order within tumour cells: Spearman correlation with mean expression (abundance)",
    "level_mean_top": f"The same: share of the first {N_TOP} genes that are the first by mean expression",
    "level_wilcoxon": "The same: Spearman correlation with Wilcoxon's z, tumour against normal",
    "level_wilcoxon_given_mean": "The same, given mean expression (partial correlation)",
    "difference_wilcoxon": "Order by tumour minus normal: Spearman correlation with Wilcoxon's z",
    "difference_wilcoxon_top": f"The same: share of the first {N_TOP} genes that are the first by Wilcoxon's z",
}


def without_seeds(task: Task, name: str, model: Any) -> list[Row]:
    """Scores of the given weights, and of expression."""
    orders = {name: by_attention(task, model), "mean expression": by_expression(task)}
    return [{"method": method, "seed": 0} | scores(task, order) for method, order in orders.items()]


def of_random_weights(task: Task, name: str, model: Any, seed: int) -> list[Row]:
    """Scores of the same network that has learned nothing."""
    order = by_attention(task, untrained(model, seed=seed))
    return [{"method": f"{name}, random weights", "seed": seed} | scores(task, order)]


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    parser = arguments(__doc__, "rank_genes_attention", model=DEFAULT, seeds=3)
    parser.add_argument("--data-sets", nargs="*", default=list(DATA_SETS), choices=DATA_SETS)
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    model, rows = load_model(args.model), []
    for data in args.data_sets:
        task, stem = read(args.data, data, model.genes), f"{args.weights}.{data}"
        found = kept(args.cache / f"{stem}.json", partial(without_seeds, task, args.weights, model))
        for seed in range(args.seeds):
            compute = partial(of_random_weights, task, args.weights, model, seed)
            found += kept(args.cache / f"{stem}.{seed}.json", compute)
        rows += [{"data": data} | row for row in found]
    table = pd.DataFrame(rows)
    sizes = table.groupby("data", sort=False)["n_genes"].first()
    what = "; ".join(f"{data}: {n:.0f} genes" for data, n in sizes.items())
    tables = [f"# Genes by attention\n\n`{args.command}`\n\n{what}.\n"]
    tables += [score_table(title, table, score, columns="data") for score, title in MEASURES.items()]
    results = about(args, "scanpy", "anndata", "scvi-tools")
    results |= {"settings": {"n_cells": N_CELLS, "min_cells": MIN_CELLS, "n_top": N_TOP}, "scores": rows}
    write_results(args.out, results, tables, rows=table)
    print("\n".join(tables))
