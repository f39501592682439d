"""How well langcell-mini, the small transformer, annotates studies it was not trained on.

    python recipes/train_langcell.py DATA_FOLDER without_pbmc3k/langcell-mini --hold-out pbmc3k
    python benchmarks/zero_shot_langcell.py DATA_FOLDER --left-out pbmc3k=without_pbmc3k/langcell-mini

Labels are offered as in ``benchmarks/zero_shot.py``, by all prompts of their terms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from reporting import markdown_table, surroundings, write_results
from sklearn.metrics import f1_score
from zero_shot.tasks import FOLDS, Task, read_tasks

import scfoundry as sf
from scfoundry.data.labels import Label
from scfoundry.data.labels.hierarchy import is_kind_of
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.stats.components import principal_components

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results" / "zero_shot_langcell.json"
LABELS = Path(__file__).parents[1] / "recipes" / "langcell_mini" / "labels.tsv"


def labels_of(task: Task) -> list[Label]:
    """Offered labels, the text with the definition first."""
    ontology = CellOntology.load()
    labels = []
    for name, ids in zip(task.offered, task.ids, strict=True):
        terms = [ontology[identifier] for identifier in ids]
        texts = [text for term in terms for text in (ontology.text(term), *ontology.prompts(term))]
        labels.append(Label(name, tuple(dict.fromkeys(texts)), term=ids[0]))
    return labels


def predictions(model: sf.model.LangCell, task: Task) -> dict[str, NDArray[np.int64]]:
    """Position of the label of every cell: as stored, by similarity alone, adapted to the data set."""
    labels = labels_of(task)
    alone = model.zero_shot(task.adata, labels, device="cpu")
    components = principal_components(CountsReader(task.adata, model.genes, caller="benchmark"))
    return {
        "langcell-mini": alone.probabilities.argmax(1),
        "langcell-mini, similarity alone": alone.similarity.argmax(1),
        "langcell-mini, adapted": alone.adapted(components, temperature=1).probabilities.argmax(1),
    }


def scores_of(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: NDArray[np.bool_]
) -> dict[str, float] | None:
    """Accuracy and macro F1 over some labels."""
    present = np.intersect1d(np.flatnonzero(labels), truth)
    if not len(present):
        return None
    right = (truth == predicted)[np.isin(truth, present)]
    f1 = f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    return {"accuracy": float(right.mean()), "macro_f1": float(f1)}


def seen(task: Task, left_out: str) -> NDArray[np.bool_]:
    """Whether each label has training cells of its kind."""
    table = pd.read_csv(LABELS, sep="\t", dtype=str, keep_default_na=False)
    terms = set(table.loc[(table["set"] != left_out) & (table["terms"] != ""), "terms"])
    trained = {term for term in terms if "|" not in term}
    ontology = CellOntology.load()
    return np.array([any(is_kind_of(t, i, ontology) for t in trained for i in ids) for ids in task.ids])


def main() -> None:
    """Load, annotate, score, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--left-out", nargs="+", required=True, metavar="STUDY=MODEL_FOLDER")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file; the table goes beside it")
    args = parser.parse_args()

    sf.settings.verbosity = "error"
    scores: list[dict[str, Any]] = []
    for pair in args.left_out:
        study, folder = pair.split("=", maxsplit=1)
        model = sf.model.LangCell.from_pretrained(folder)
        for task in read_tasks(args.data, FOLDS[study]):
            known = seen(task, study)
            kinds = {"all": np.ones_like(known), "seen": known, "unseen": ~known}
            methods = {
                name: {kind: scores_of(task.truth, found, labels) for kind, labels in kinds.items()}
                for name, found in predictions(model, task).items()
            }
            scores.append(
                {
                    "task": task.name,
                    "seed": 0,
                    "methods": methods,
                    "chance": 1 / len(task.offered),
                    "n_labels": len(task.offered),
                    "unseen_labels": [label for label, k in zip(task.offered, known, strict=True) if not k],
                }
            )
            print(task.name, {m: s["all"] for m, s in methods.items()}, flush=True)
    results = {
        "command": " ".join(["python", "benchmarks/zero_shot_langcell.py", *sys.argv[1:]]),
        "seeds": 1,
        "surroundings": surroundings("scanpy", "scikit-learn"),
        "scores": scores,
    }
    names = list(scores[0]["methods"])
    rows = [
        (
            s["task"],
            *(" / ".join(f"{v:.3f}" for v in s["methods"][m]["all"].values()) for m in names),
            f"{s['chance']:.2f}",
        )
        for s in scores
    ]
    title = "Accuracy / macro F1 of one training per left-out study"
    write_results(args.out, results, [markdown_table(title, ["data set, labels", *names, "chance"], rows)])


if __name__ == "__main__":
    main()
