"""How well langcell-mini annotates studies it was not trained on, from the names of cell types alone.

    python benchmarks/zero_shot.py DATA_FOLDER --markers panglaodb_markers.tsv.gz

One study after the other is left out, vocabulary and all; a model is trained on the others, once per seed, and asked to
label the left-out cells. Beside it: marker scoring, logistic regression on the same cells, chance. The threshold of the
unknown rule is, for every study, the one that keeps 96 % of the cells of the other studies. The weights of the three
terms of the score were chosen on these studies, where a wide range of them does equally well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from reporting import surroundings, write_results

import scfoundry as sf
from scfoundry.data.ontology import CellOntology
from scfoundry.model.langcell._scorer import Label

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from langcell_mini.corpus import human_genes, read_labels, read_markers, read_sets
from zero_shot.peers import LogisticPeer, marker_scores
from zero_shot.report import tables
from zero_shot.studies import Corpus, LeftOut
from zero_shot.tasks import FOLDS, Task, read_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

TABLES = Path(__file__).parents[1] / "recipes" / "langcell_mini"
RESULTS = Path(__file__).parent / "results" / "zero_shot.json"
KEEP = 0.96
MAX_CELLS = 400
MIN_CELLS = 5


def drop_low_genes(counts: csr_matrix, probability: float, rng: np.random.Generator) -> csr_matrix:
    """Set genes among the lowest 30 % of those that a cell expresses to zero (Zhao et al. 2024, Table A.6)."""
    dropped = counts.copy()
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        values = counts.data[start:stop]
        order = np.lexsort((rng.random(len(values)), values))[: int(0.3 * len(values))]
        dropped.data[start + order[rng.random(len(order)) < probability]] = 0
    return dropped


def method_scores(truth: NDArray[np.int64], predicted: NDArray[np.int64], offered: list[str]) -> dict[str, float]:
    """Accuracy and macro F1."""
    names = np.array(offered)
    return sf.metrics.annotation(names[truth], names[predicted])[["accuracy", "macro_f1"]].to_dict()


def resolved(task: Task, ontology: CellOntology) -> list[Label]:
    """Offered labels as a user writes them, resolved by name."""
    labels = []
    for name in task.offered:
        term = ontology.resolve(name)
        labels.append(Label(ontology.prompts(term), (term.id,)) if term else Label([f"cell type: {name}."]))
    return labels


def fits(left_out: LeftOut, task: Task) -> dict[str, Any]:
    """How well the best label fits some cells, where all labels are offered and where their own is not."""
    cells = np.random.default_rng(0).permutation(len(task.truth))[:MAX_CELLS]
    z, measured = left_out.standardised(task)
    z, truth = z[cells], task.truth[cells]
    labels = task.labels(left_out.ontology)

    def fit(cells: Tensor, offered: list[Label]) -> list[float]:
        scores = left_out.scores(task, cells, measured, offered)
        return ((1 - scores.outside) * scores.logits.softmax(1).max(1).values).tolist()

    strange = []
    for position in range(len(labels)):
        own = torch.from_numpy(truth == position)
        if own.sum() >= MIN_CELLS:
            strange.append(fit(z[own], labels[:position] + labels[position + 1 :]))
    return {"known": fit(z, labels), "strange": strange}


def score(left_out: LeftOut, task: Task, peers: Mapping[str, NDArray[np.int64]], seed: int) -> dict[str, Any]:
    """All scores of one task by one training."""
    z, measured = left_out.standardised(task)
    probability = left_out.scores(task, z, measured).logits.softmax(1)
    confidence, predicted = (values.numpy() for values in probability.max(1))
    right = predicted == task.truth
    seen = np.array(left_out.seen(task))
    of_seen = seen[task.truth]
    thinned = drop_low_genes(task.adata.X, 0.1, np.random.default_rng(seed))
    after = left_out.scores(task, *left_out.standardised(task, thinned)).logits.argmax(1).numpy()
    by_name = left_out.scores(task, z, measured, resolved(task, left_out.ontology)).logits.argmax(1).numpy()
    methods = {"langcell-mini": predicted, **peers}
    return {
        "task": task.name,
        "seed": seed,
        "methods": {name: method_scores(task.truth, found, task.offered) for name, found in methods.items()},
        "chance": 1 / len(task.offered),
        "seen": float(right[of_seen].mean()),
        "unseen": None if of_seen.all() else float(right[~of_seen].mean()),
        "unseen_labels": [label for label, known in zip(task.offered, seen, strict=True) if not known],
        "ece": float(sf.metrics.calibration(confidence, right)["ece"]),
        "dropout": float((after == task.truth).mean() - right.mean()),
        "by_name": float((by_name == task.truth).mean()),
        "fits": fits(left_out, task),
    }


def unknown_rule(scores: list[dict[str, Any]], fold_of: Mapping[str, str]) -> tuple[dict[str, dict[str, float]], float]:
    """Share of known cells kept and of strange ones caught, by the threshold of the other studies; and that of all."""

    def threshold(without: str | None) -> float:
        used = [s["fits"]["known"] for s in scores if fold_of[s["task"]] != without]
        return float(np.exp(np.mean([np.log(np.quantile(known, 1 - KEEP)) for known in used])))

    found = {}
    for task in fold_of:
        runs = [s["fits"] for s in scores if s["task"] == task]
        limit = threshold(fold_of[task])
        found[task] = {
            "threshold": limit,
            "kept": float(np.mean([np.mean(np.array(run["known"]) >= limit) for run in runs])),
            "caught": float(np.mean([np.mean(np.array(label) < limit) for run in runs for label in run["strange"]])),
        }
    return found, threshold(None)


def main() -> None:
    """Leave out, train, score, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--markers", type=Path, required=True, help="PanglaoDB table, .tsv or .tsv.gz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--studies", nargs="*", default=list(FOLDS), help="studies to leave out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; the tables go beside it")
    args = parser.parse_args()

    sf.settings.verbosity = "error"
    genes = human_genes()
    corpus = Corpus(
        read_sets(args.data, read_labels(TABLES / "labels.tsv"), genes, []),
        read_markers(args.markers, TABLES / "marker_types.tsv", genes),
        genes,
        CellOntology.load(),
    )
    scores: list[dict[str, Any]] = []
    fold_of: dict[str, str] = {}
    for name in args.studies:
        tasks = read_tasks(args.data, FOLDS[name])
        fold_of |= dict.fromkeys((task.name for task in tasks), name)
        peers: dict[str, dict[str, NDArray[np.int64]]] = {}
        for seed in range(args.seeds):
            left_out = LeftOut(corpus, name, seed)
            if not peers:
                logistic = LogisticPeer(left_out)
                peers = {
                    task.name: marker_scores(left_out, task) | {"logistic regression": logistic.predict(task)}
                    for task in tasks
                }
            for task in tasks:
                scores.append(score(left_out, task, peers[task.name], seed))
                print(
                    task.name, seed, {m: round(s["accuracy"], 3) for m, s in scores[-1]["methods"].items()}, flush=True
                )
    unknown, threshold = unknown_rule(scores, fold_of)
    results = {
        "seeds": args.seeds,
        "unknown_threshold": threshold,
        "unknown": unknown,
        "surroundings": surroundings("scanpy", "scikit-learn"),
        "scores": [{key: value for key, value in s.items() if key != "fits"} for s in scores],
    }
    report = tables(scores, unknown, range(args.seeds))
    print("\n".join(report))
    write_results(args.out, results, report)


if __name__ == "__main__":
    main()
