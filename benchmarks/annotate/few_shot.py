"""What a few labelled cells add: accuracy over 0, 1, 3, 5 and 9 shots per type, on studies left out of training.

    python -m benchmarks few_shot DATA_FOLDER

Shots are drawn from the study itself, and all its other cells are annotated by `sf.tl.annotate`; without shots by
`sf.tl.zero_shot_annotate`, if the model reads texts. Beside it: logistic regression on the first 30 principal
components of the study, fitted to the same shots. One training of cellnamer-mini and one draw of shots per seed; any
other model is taken as it is, and should not have seen the studies.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import scfoundry as sf
from benchmarks.command import arguments, kept, parse
from benchmarks.peers import logistic_regression
from benchmarks.reporting import about, markdown_table, write_results
from benchmarks.zero_shot_annotate.studies import TRAINED_HERE, LeftOut
from benchmarks.zero_shot_annotate.tasks import FOLDS, Task, read_tasks
from scfoundry.model._capabilities import ReadsTexts, can
from scfoundry.stats.components import principal_components

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

STUDIES = ("pbmc10k_citeseq", "breast_cancer_wu_cid4465")
SHOTS = (0, 1, 3, 5, 9)
KEY = "label"


def draw(truth: NDArray[np.int64], n_shots: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mark some cells of every type."""
    shots = np.zeros(len(truth), dtype=bool)
    for label in np.unique(truth):
        shots[rng.permutation(np.flatnonzero(truth == label))[:n_shots]] = True
    return shots


def scores(left_out: LeftOut, task: Task, weights: str, n_shots: int, seed: int) -> dict[str, Any]:
    """Accuracy and macro F1 of the cells that are no shots, ours and of logistic regression."""
    names, model = np.array(task.offered, dtype=object)[task.truth], left_out.model
    shots = draw(task.truth, n_shots, np.random.default_rng(seed))
    query, reference = task.adata[~shots].copy(), task.adata[shots].copy()
    labels: dict[str, NDArray[Any]] = {}
    if n_shots:
        reference.obs[KEY] = names[shots]
        sf.tl.annotate(query, reference, labels_key=KEY, model=model, rng=seed)
        labels[weights] = query.obs["annotation"].to_numpy()
        components = principal_components(left_out.cells(task).reader)
        labels["logistic regression on PCA"] = logistic_regression(
            components[shots], names[shots], components[~shots], scaled=False
        )
    elif can(model, ReadsTexts):
        sf.tl.zero_shot_annotate(query, task.offered, model=model, unknown=None)
        labels[weights] = query.obs["zero_shot"].to_numpy()
    found = {name: sf.metrics.annotation(names[~shots], of_method) for name, of_method in labels.items()}
    by_method = {name: values[["accuracy", "macro_f1"]].to_dict() for name, values in found.items()}
    return {"task": task.name, "shots": n_shots, "seed": seed, "methods": by_method}


def study_scores(data: Path, study: str, model: str, weights: str, seed: int) -> list[dict[str, Any]]:
    """All numbers of shots for one training, without the studies of the fold."""
    left_out = LeftOut(data, next(studies for studies, scored in FOLDS.items() if study in scored), model, seed)
    task = read_tasks(data, (study,))[-1]
    return [scores(left_out, task, weights, n_shots, seed) for n_shots in SHOTS]


def table(results: list[dict[str, Any]]) -> str:
    """One row per data set and method, one column per number of shots."""
    flat = pd.DataFrame(
        {"task": r["task"], "method": m, "shots": r["shots"], **values}
        for r in results
        for m, values in r["methods"].items()
    )
    rows = []
    for (task, method), runs in flat.groupby(["task", "method"], sort=False):
        by_shots = runs.groupby("shots")[["accuracy", "macro_f1"]].mean()
        cells = [
            f"{by_shots.loc[n, 'accuracy']:.3f} / {by_shots.loc[n, 'macro_f1']:.3f}" if n in by_shots.index else "-"
            for n in SHOTS
        ]
        rows.append((task, method, *cells))
    return markdown_table("Accuracy / macro F1 over shots", ["data set, labels", "method", *map(str, SHOTS)], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Leave out, train, draw, annotate, report."""
    parser = arguments(__doc__, "few_shot", model=TRAINED_HERE, seeds=3)
    parser.add_argument("--studies", nargs="*", default=list(STUDIES), choices=STUDIES, help="studies to leave out")
    args = parse(parser, argv)

    sf.settings.verbosity = "error"
    results: list[dict[str, Any]] = []
    for study in args.studies:
        for seed in range(args.seeds):
            job = (args.data, study, args.model, args.weights, seed)
            results += kept(args.cache / f"{args.weights}.{study}.{seed}.json", partial(study_scores, *job))
    head = "# Few-shot annotation of studies that were left out of training\n\n"
    tables = [f"{head}`{args.command}`\n\nMean of {args.seeds} seeds.\n", table(results)]
    print("\n".join(tables))
    write_results(args.out, about(args, "scanpy", "scikit-learn") | {"scores": results}, tables)
