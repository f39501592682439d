"""What a few labelled cells add: accuracy over 0, 1, 3, 5 and 9 shots per type, on studies left out of training.

    python benchmarks/few_shot.py DATA_FOLDER --markers panglaodb_markers.tsv.gz

Shots are drawn from the study itself, and all its other cells are annotated by `sf.tl.annotate`; without shots by
`sf.tl.zero_shot_annotate`. Beside it: logistic regression on the first 30 principal components of the study, fitted to
the same shots. One training of langcell-mini and one draw of shots per seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from reporting import markdown_table, surroundings, write_results
from sklearn.linear_model import LogisticRegression

import scfoundry as sf
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.stats.components import principal_components

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from langcell_mini.corpus import human_genes, read_labels, read_markers, read_sets
from zero_shot.studies import Corpus, LeftOut
from zero_shot.tasks import Task, read_tasks

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLES = Path(__file__).parents[1] / "recipes" / "langcell_mini"
STUDIES = ("pbmc10k_citeseq", "breast_cancer_wu_cid4465")
SHOTS = (0, 1, 3, 5, 9)
KEY = "label"


def draw(truth: NDArray[np.int64], n_shots: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mark some cells of every type."""
    shots = np.zeros(len(truth), dtype=bool)
    for label in np.unique(truth):
        shots[rng.permutation(np.flatnonzero(truth == label))[:n_shots]] = True
    return shots


def scores(left_out: LeftOut, task: Task, n_shots: int, seed: int) -> dict[str, Any]:
    """Accuracy and macro F1 of the cells that are no shots, ours and of logistic regression."""
    names = np.array(task.offered, dtype=object)[task.truth]
    shots = draw(task.truth, n_shots, np.random.default_rng(seed))
    query, reference = task.adata[~shots].copy(), task.adata[shots].copy()
    said = {}
    if n_shots:
        reference.obs[KEY] = names[shots]
        sf.tl.annotate(query, reference, labels_key=KEY, model=left_out.model, rng=seed)
        said["langcell-mini"] = query.obs["annotation"]
        components = principal_components(left_out.reader(task))
        peer = LogisticRegression(max_iter=1000).fit(components[shots], names[shots])
        said["logistic regression on PCA"] = peer.predict(components[~shots])
    else:
        sf.tl.zero_shot_annotate(query, task.offered, model=left_out.model, unknown=None)
        said["langcell-mini"] = query.obs["zero_shot"]
    found = {name: sf.metrics.annotation(names[~shots], np.asarray(labels)) for name, labels in said.items()}
    by_method = {name: values[["accuracy", "macro_f1"]].to_dict() for name, values in found.items()}
    return {"task": task.name, "shots": n_shots, "seed": seed, "methods": by_method}


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


def main() -> None:
    """Leave out, train, draw, annotate, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--markers", type=Path, required=True, help="PanglaoDB table, .tsv or .tsv.gz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--studies", nargs="*", default=list(STUDIES), help="studies to leave out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "few_shot.json")
    args = parser.parse_args()

    sf.settings.verbosity = "error"
    genes = human_genes()
    corpus = Corpus(
        read_sets(args.data, read_labels(TABLES / "labels.tsv"), genes, []),
        read_markers(args.markers, TABLES / "marker_types.tsv", genes),
        genes,
        CellOntology.load(),
    )
    results: list[dict[str, Any]] = []
    for name in args.studies:
        task = read_tasks(args.data, (name,))[-1]
        for seed in range(args.seeds):
            left_out = LeftOut(corpus, name, seed)
            for n_shots in SHOTS:
                results.append(scores(left_out, task, n_shots, seed))
                print(results[-1], flush=True)
    report = f"# Few-shot annotation of studies that were left out of training\n\nMean of {args.seeds} seeds.\n"
    tables = [report, table(results)]
    print("\n".join(tables))
    write_results(args.out, {"surroundings": surroundings("scanpy", "scikit-learn"), "scores": results}, tables)


if __name__ == "__main__":
    main()
