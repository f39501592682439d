"""Whether cells come from a tumour, on whole studies that were left out of training.

    python -m benchmarks discriminate_tumour DATA_FOLDER --model FOLDER

Area under the ROC curve: of malignant against other cells of the same tumour, which no difference between studies can
help with, and of tumours against normal tissue of other studies. Beside the weights stand logistic regression on log
expression of seven studies, and, with a table of gene positions (``--positions``, see
``benchmarks/discriminate_tumour/positions.py``), a score of copy numbers. Weights that name a held-out study in
``trained_on`` are refused. Cells are drawn anew for every seed; scores are kept in ``--cache`` and computed once.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import scfoundry as sf
from benchmarks.command import arguments, kept, load_model, parse
from benchmarks.discriminate_tumour.peers import copy_number_score, logistic_regression
from benchmarks.discriminate_tumour.tasks import HELD_OUT, LEFT_OUT, TRAINING, read, tasks, training
from benchmarks.reporting import about, score_table, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    Row = dict[str, Any]

DEFAULT = "celllm-mini"
N_CELLS = 300


def probabilities(cells: AnnData, model: Any) -> NDArray[np.float64]:
    """By the verb, whose warning is what is measured here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The label 'tumour' is confounded")
        found = sf.tl.discriminate_tumour(cells, model=model, copy=True)
    return found.obs["tumour_probability"].fillna(0.5).to_numpy(dtype=float)


def of_peers(folder: Path, model: Any, seed: int, positions: pd.DataFrame | None) -> list[Row]:
    """AUROC of what learns from the training studies."""
    studies, rows = read(folder, model.genes, N_CELLS, seed), []
    for task in tasks():
        known, query, truth = training(studies, task)
        found = {"logistic regression": logistic_regression(known, query)}
        if positions is not None:
            found["copy numbers"] = copy_number_score(known, query, positions)
        rows += [row(task.name, method, seed, truth, score, query.n_vars) for method, score in found.items()]
    return rows


def of_model(folder: Path, name: str, model: Any, seed: int) -> list[Row]:
    """AUROC of the weights, which read all genes that a study measured."""
    studies, rows = read(folder, model.genes, N_CELLS, seed), []
    found = {study: probabilities(studies[study], model) for study in HELD_OUT}
    for task in tasks():
        truth = np.concatenate([studies[s].obs["malignant" if task.within else "tumour"] for s in task.studies])
        score = np.concatenate([found[study] for study in task.studies])
        rows.append(row(task.name, name, seed, truth, score, len(model.genes)))
    return rows


def row(task: str, method: str, seed: int, truth: NDArray[Any], score: NDArray[np.float64], n_genes: int) -> Row:
    """One score, with how many cells and genes it is of."""
    truth = truth.astype(bool)
    sizes = {"n_positive": int(truth.sum()), "n_negative": int((~truth).sum()), "n_genes": n_genes}
    return {"data": task, "method": method, "seed": seed, "auroc": float(roc_auc_score(truth, score))} | sizes


def refuse_seen(model: Any) -> None:
    """Stop where the weights say that they learned from a held-out study."""
    if seen := [study for study in LEFT_OUT if study in str(model.provenance.get("trained_on", ""))]:
        sys.exit(f"These weights learned from {', '.join(seen)}: train some without {', '.join(LEFT_OUT)}.")


def main(argv: Sequence[str] | None = None) -> None:
    """Score and report."""
    parser = arguments(__doc__, "discriminate_tumour", model=DEFAULT, seeds=3)
    parser.add_argument("--positions", type=Path, help="table with symbol, chromosome and start, for copy numbers")
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    model = load_model(args.model)
    refuse_seen(model)
    positions = None
    if args.positions is not None:
        table = pd.read_csv(args.positions, sep="\t", index_col="symbol")
        place = model.genes.index_of(table.index)
        positions = table[place >= 0].set_axis(model.genes.ids[place[place >= 0]])
        positions = positions[~positions.index.duplicated()]
    rows: list[Row] = []
    for seed in range(args.seeds):
        peers = partial(of_peers, args.data, model, seed, positions)
        with_positions = "" if positions is None else ".positions"
        ours = partial(of_model, args.data, args.weights, model, seed)
        rows += kept(args.cache / f"{args.weights}.{seed}.json", ours)
        rows += kept(args.cache / f"peers{with_positions}.{args.weights}.{seed}.json", peers)
    scores = pd.DataFrame(rows)
    sizes = scores.groupby("data", sort=False)[["n_positive", "n_negative"]].first()
    what = "; ".join(f"{data}: {n.n_positive} against {n.n_negative} cells" for data, n in sizes.iterrows())
    tables = [f"# Tumour or normal\n\n`{args.command}`\n\nOne seed: {what}.\n"]
    tables.append(score_table("AUROC, studies left out of training", scores, "auroc", columns="data"))
    results = about(args, "scanpy", "anndata", "scvi-tools", "scikit-learn")
    results |= {"held_out": LEFT_OUT, "peers_learned_from": TRAINING, "n_cells": N_CELLS, "scores": rows}
    write_results(args.out, results, tables, rows=scores)
    print("\n".join(tables))
