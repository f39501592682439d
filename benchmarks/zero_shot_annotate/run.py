"""How well a model names cells of studies it was not trained on, from the names of cell types alone.

    python -m benchmarks zero_shot_annotate DATA_FOLDER --markers panglaodb_markers.tsv.gz

Some studies of different tissues are left out at a time; cellnamer-mini is trained on the rest of the corpus by its
recipe, once per seed, and asked to label the left-out cells, adapted to the data set and each by itself, with the
labels that fit and with 30 labels of the whole body. Beside it: marker scoring, logistic regression on the same cells,
chance. The temperature and the threshold for unknown cells are, for every study, what the other studies call for. The
weights of the terms of the score were chosen on these studies, where a wide range of them does equally well. Any other
model is asked as it is, and should not have seen the studies.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import f1_score

import scfoundry as sf
from benchmarks.command import arguments, kept, parse
from benchmarks.reporting import about, write_results
from benchmarks.zero_shot_annotate.peers import Peers
from benchmarks.zero_shot_annotate.report import tables
from benchmarks.zero_shot_annotate.studies import TRAINED_HERE, LeftOut, read_markers
from benchmarks.zero_shot_annotate.tasks import FOLDS, Task, read_tasks
from benchmarks.zero_shot_annotate.trust import TEMPERATURES, error, fits, fitted, trust
from scfoundry.stats.adaptation import adapted
from scfoundry.stats.components import principal_components

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfoundry.data.matrix.cells import Cells

DROPOUT = (0.01, 0.05, 0.1)
# A label of so many cells has vanished if less than this share of them is found.
MIN_CELLS, LEAST_FOUND = 20, 0.1
# The way that the verb does not take by default.
BY_ITSELF, ADAPTED = "each cell by itself", "adapted to the data set"


def drop_low_genes(counts: csr_matrix, probability: float, rng: np.random.Generator) -> csr_matrix:
    """Set genes among the lowest 30 % of those that a cell expresses to zero (Zhao et al. 2024, Table A.6)."""
    dropped = counts.copy()
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        values = counts.data[start:stop]
        order = np.lexsort((rng.random(len(values)), values))[: int(0.3 * len(values))]
        dropped.data[start + order[rng.random(len(order)) < probability]] = 0
    return dropped


def method_scores(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], seen: NDArray[np.bool_]
) -> dict[str, dict[str, float] | None]:
    """Accuracy and macro F1 over all labels, over those with training cells of their kind, and over the others."""
    kinds = {"all": np.ones_like(seen), "seen": seen, "unseen": ~seen}
    return {kind: _scores_of(truth, predicted, np.flatnonzero(labels)) for kind, labels in kinds.items()}


def _scores_of(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, float] | None:
    present = np.intersect1d(labels, truth)
    if not len(present):
        return None
    right = (truth == predicted)[np.isin(truth, present)]
    f1 = f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    return {"accuracy": float(right.mean()), "macro_f1": float(f1)}


def score(
    left_out: LeftOut, task: Task, name: str, peers: Mapping[str, NDArray[np.int64]], seed: int
) -> dict[str, Any]:
    """All scores of one task by one training."""
    cells, model = left_out.cells(task), left_out.model
    components = principal_components(cells.reader)
    alone, by_temperature = answers(left_out, task, cells, components)
    found, seen = by_temperature[1.0].argmax(1), left_out.seen(task)
    accuracy = float((found == task.truth).mean())
    other = {BY_ITSELF: alone} if model.adapts else {ADAPTED: adapted(alone, components, 1.0)}
    methods = {name: found} | {way: p.argmax(1) for way, p in other.items()} | dict(peers)
    return {
        "task": task.name,
        "seed": seed,
        "methods": {name: method_scores(task.truth, labels, seen) for name, labels in methods.items()},
        "chance": 1 / len(task.offered),
        "n_labels": len(task.offered),
        "unseen_labels": [label for label, known in zip(task.offered, seen, strict=True) if not known],
        "vanished": vanished(task, found),
        "ece": {str(t): error(p, task) for t, p in by_temperature.items()},
        "ece_alone": error(alone, task),
        "whole_body": among_whole_body(left_out, task, cells, components),
        "dropout": {str(p): after_dropout(left_out, task, p, seed) - accuracy for p in DROPOUT},
        "by_name": by_name(left_out, task),
        "fits": fits(left_out, task, components, seed),
    }


def answers(
    left_out: LeftOut, task: Task, cells: Cells, components: NDArray[np.float64]
) -> tuple[NDArray[np.float32], dict[float, NDArray[np.float32]]]:
    """Probabilities of the labels cell by cell, and by the way that the verb takes at every temperature."""
    alone = left_out.scores(cells, left_out.labels(task)).probabilities
    if not left_out.model.adapts:
        return alone, dict.fromkeys(TEMPERATURES, alone)
    return alone, {t: adapted(alone, components, t) for t in TEMPERATURES}


def among_whole_body(left_out: LeftOut, task: Task, cells: Cells, components: NDArray[np.float64]) -> dict[str, Any]:
    """Accuracy and calibration once foreign types are offered as well."""
    many = task.with_whole_body(left_out.ontology)
    _, by_temperature = answers(left_out, many, cells, components)
    found = by_temperature[1.0].argmax(1)
    return {
        "accuracy": float((found == task.truth).mean()),
        "n_labels": len(many.offered),
        "vanished": vanished(many, found),
        "ece": {str(t): error(p, many) for t, p in by_temperature.items()},
    }


def vanished(task: Task, found: NDArray[np.int64]) -> list[str]:
    """Labels of 20 cells or more of which not one in ten is found."""
    kept = {i: np.mean(found[task.truth == i] == i) for i, n in enumerate(np.bincount(task.truth)) if n >= MIN_CELLS}
    return [task.offered[i] for i, share in kept.items() if share < LEAST_FOUND]


def after_dropout(left_out: LeftOut, task: Task, probability: float, seed: int) -> float:
    """Accuracy once low genes have been lost."""
    cells = left_out.cells(task, drop_low_genes(task.adata.X, probability, np.random.default_rng(seed)))
    alone = left_out.scores(cells, left_out.labels(task)).probabilities
    found = adapted(alone, principal_components(cells.reader), 1) if left_out.model.adapts else alone
    return float((found.argmax(1) == task.truth).mean())


def by_name(left_out: LeftOut, task: Task) -> float:
    """Accuracy of the verb, given labels as a user writes them."""
    done = sf.tl.zero_shot_annotate(task.adata, task.offered, model=left_out.model, unknown=None, copy=True)
    return float((done.obs["zero_shot"].astype(str) == np.array(task.offered)[task.truth]).mean())


def fold_scores(
    args: Namespace, studies: tuple[str, ...], scored: tuple[str, ...], n_seeds: int
) -> list[dict[str, Any]]:
    """All scores of some data sets by trainings without some studies; peers are the same for all."""
    tasks = read_tasks(args.data, scored)
    peers: dict[str, dict[str, NDArray[np.int64]]] = {task.name: {} for task in tasks}
    scores = []
    for seed in range(n_seeds):
        left_out = LeftOut(args.data, studies, args.model, seed)
        if args.model == TRAINED_HERE and seed == 0:
            by_peers = Peers(left_out, read_markers(args.markers))
            peers = {task.name: by_peers.predict(task) for task in tasks}
        scores += [score(left_out, task, args.weights, peers[task.name], seed) for task in tasks]
    return scores


def main(argv: Sequence[str] | None = None) -> None:
    """Leave out, train, score, report."""
    parser = arguments(__doc__, "zero_shot_annotate", model=TRAINED_HERE, seeds=3)
    parser.add_argument("--markers", type=Path, required=True, help="PanglaoDB table, .tsv or .tsv.gz")
    every = [name for scored in FOLDS.values() for name in scored]
    parser.add_argument("--sets", nargs="*", default=every, choices=every, help="data sets to score, all by default")
    args = parse(parser, argv)

    sf.settings.verbosity = "error"
    n_seeds = args.seeds if args.model == TRAINED_HERE else 1
    scores: list[dict[str, Any]] = []
    fold_of: dict[str, str] = {}
    for studies, of_fold in FOLDS.items():
        scored = tuple(name for name in of_fold if name in args.sets)
        if not scored:
            continue
        fold_of |= {task.name: task.name.split(",")[0] for task in read_tasks(args.data, scored)}
        path = args.cache / f"{args.weights}.{'.'.join(scored)}.{n_seeds}.json"
        scores += kept(path, partial(fold_scores, args, studies, scored, n_seeds))
    trusted = trust(scores, fold_of)
    results = about(args, "scanpy", "scikit-learn") | {
        "seeds": n_seeds,
        "fitted": fitted(scores),
        "trust": trusted,
        "scores": [{key: value for key, value in s.items() if key != "fits"} for s in scores],
    }
    report = tables(scores, trusted, command=args.command, n_seeds=n_seeds)
    print("\n".join(report))
    write_results(args.out, results, report)
