"""How well langcell-mini annotates studies it was not trained on, from the names of cell types alone.

    python benchmarks/zero_shot.py DATA_FOLDER --markers panglaodb_markers.tsv.gz

One study after the other is left out, vocabulary and all; a model is trained on the others, once per seed, and asked to
label the left-out cells, adapted to the data set and each by itself. Beside it: marker scoring, logistic regression on
the same cells, chance. The temperature and the threshold for unknown cells are, for every study, what the other studies
call for. The weights of the terms of the score were chosen on these studies, where a wide range of them does equally
well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from reporting import surroundings, write_results
from sklearn.metrics import f1_score

import scfoundry as sf
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.model.cellnamer._module import OfferedLabel
from scfoundry.stats.components import principal_components

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

    from scfoundry.model.langcell._matching import ZeroShot

TABLES = Path(__file__).parents[1] / "recipes" / "langcell_mini"
RESULTS = Path(__file__).parent / "results" / "zero_shot.json"
KEEP = 0.96
TEMPERATURES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
DROPOUT = (0.01, 0.05, 0.1)
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


def method_scores(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], seen: NDArray[np.bool_]
) -> dict[str, dict[str, float] | None]:
    """Accuracy and macro F1 over all labels, over those with training cells of their kind, and over the others."""
    kinds = {"all": np.ones_like(seen), "seen": seen, "unseen": ~seen}
    return {kind: _scores_of(truth, predicted, np.flatnonzero(labels)) for kind, labels in kinds.items()}


def _scores_of(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, float] | None:
    there = np.intersect1d(labels, truth)
    if not len(there):
        return None
    right = (truth == predicted)[np.isin(truth, there)]
    f1 = f1_score(truth, predicted, labels=there, average="macro", zero_division=0)
    return {"accuracy": float(right.mean()), "macro_f1": float(f1)}


def resolved(task: Task, ontology: CellOntology) -> list[OfferedLabel]:
    """Offered labels as a user writes them, resolved by name."""
    labels = []
    for name in task.offered:
        term = ontology.resolve(name)
        labels.append(
            OfferedLabel(ontology.prompts(term), (term.id,)) if term else OfferedLabel([f"cell type: {name}."])
        )
    return labels


def fits(left_out: LeftOut, task: Task, seed: int) -> dict[str, list]:
    """How well the best label fits some cells: where all labels are offered, and where their own is not."""
    cells = np.sort(np.random.default_rng(seed).permutation(len(task.truth))[:MAX_CELLS])
    labels = task.labels(left_out.ontology)
    reader = left_out.reader(task)
    strange = []
    for position in range(len(labels)):
        own = cells[task.truth[cells] == position]
        if len(own) >= MIN_CELLS:
            others = labels[:position] + labels[position + 1 :]
            strange.append(left_out.judge(task, reader, others).fit[own].tolist())
    return {"known": left_out.judge(task, reader).fit[cells].tolist(), "strange": strange}


def score(left_out: LeftOut, task: Task, peers: Mapping[str, NDArray[np.int64]], seed: int) -> dict[str, Any]:
    """All scores of one task by one training."""
    reader = left_out.reader(task)
    components = principal_components(reader)
    alone = left_out.judge(task, reader)
    found = said(alone.adapted(components, temperature=1))
    accuracy = (found == task.truth).mean()
    seen = np.array(left_out.seen(task))
    named = left_out.judge(task, reader, resolved(task, left_out.ontology))
    by_name = said(named.adapted(components, temperature=1))
    methods = {"langcell-mini": found, "each cell by itself": said(alone), **peers}
    return {
        "task": task.name,
        "seed": seed,
        "methods": {name: method_scores(task.truth, labels, seen) for name, labels in methods.items()},
        "chance": 1 / len(task.offered),
        "n_labels": len(task.offered),
        "unseen_labels": [label for label, known in zip(task.offered, seen, strict=True) if not known],
        "ece": {t: error(alone.adapted(components, temperature=t), task) for t in TEMPERATURES},
        "ece_alone": error(alone, task),
        "dropout": {p: after_dropout(left_out, task, p, seed) - float(accuracy) for p in DROPOUT},
        "by_name": float((by_name == task.truth).mean()),
        "fits": fits(left_out, task, seed),
    }


def after_dropout(left_out: LeftOut, task: Task, probability: float, seed: int) -> float:
    """Accuracy once low genes have been lost."""
    thinned = left_out.reader(task, drop_low_genes(task.adata.X, probability, np.random.default_rng(seed)))
    found = said(left_out.judge(task, thinned).adapted(principal_components(thinned), temperature=1))
    return float((found == task.truth).mean())


def said(result: ZeroShot) -> NDArray[np.int64]:
    """Most probable label of every cell."""
    return result.probabilities.argmax(1)


def error(result: ZeroShot, task: Task) -> float:
    """Expected calibration error."""
    confidence = result.probabilities.max(1).clip(0, 1)
    return float(sf.metrics.calibration(confidence, said(result) == task.truth)["ece"])


def fitted(scores: list[dict[str, Any]]) -> dict[str, float]:
    """Temperature and threshold that some runs call for."""
    lowest = [np.log(np.quantile(s["fits"]["known"], 1 - KEEP)) for s in scores]
    temperature = min(TEMPERATURES, key=lambda t: np.mean([s["ece"][t] for s in scores]))
    return {"temperature": temperature, "threshold": float(np.exp(np.mean(lowest)))}


def trust(scores: list[dict[str, Any]], fold_of: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Calibration and unknown cells of every task, by what the other studies call for."""
    found = {}
    for task, fold in fold_of.items():
        runs = [s for s in scores if s["task"] == task]
        others = fitted([s for s in scores if fold_of[s["task"]] != fold] or runs)
        limit = others["threshold"]
        found[task] = others | {
            "ece": float(np.mean([run["ece"][others["temperature"]] for run in runs])),
            "ece_alone": float(np.mean([run["ece_alone"] for run in runs])),
            "kept": float(np.mean([np.mean(np.array(run["fits"]["known"]) >= limit) for run in runs])),
            "caught": float(
                np.mean([np.mean(np.array(own) < limit) for run in runs for own in run["fits"]["strange"]])
            ),
        }
    return found


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
                    task.name,
                    seed,
                    {m: round(s["all"]["accuracy"], 3) for m, s in scores[-1]["methods"].items()},
                    flush=True,
                )
    trusted = trust(scores, fold_of)
    results = {
        "seeds": args.seeds,
        "fitted": fitted(scores),
        "trust": trusted,
        "surroundings": surroundings("scanpy", "scikit-learn"),
        "scores": [{key: value for key, value in s.items() if key != "fits"} for s in scores],
    }
    report = tables(scores, trusted, range(args.seeds))
    print("\n".join(report))
    write_results(args.out, results, report)


if __name__ == "__main__":
    main()
