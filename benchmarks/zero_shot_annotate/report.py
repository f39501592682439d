"""Tables of the zero-shot benchmark."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.reporting import markdown_table

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["tables"]

Scores = list[dict[str, Any]]

TRUST = ("ece", "ece_whole_body", "ece_alone", "kept", "caught", "kept_by_all", "caught_by_all")


def tables(scores: Scores, trusted: Mapping[str, Mapping[str, float]], *, command: str, n_seeds: int) -> list[str]:
    """Accuracy beside peers, seen and unseen types, trust, robustness."""
    by_task: dict[str, Scores] = defaultdict(list)
    for score in scores:
        by_task[score["task"]].append(score)
    methods = list(scores[0]["methods"])
    beside, seen, unseen = (
        [
            (task, *(_mean_pair([s["methods"][m][kind] for s in runs]) for m in methods), last(runs[0]))
            for task, runs in by_task.items()
            if runs[0]["methods"][methods[0]][kind]
        ]
        for kind, last in (
            ("all", lambda run: f"{run['chance']:.2f}"),
            ("seen", lambda run: str(run["n_labels"] - len(run["unseen_labels"]))),
            ("unseen", lambda run: ", ".join(run["unseen_labels"])),
        )
    )
    trust = [
        (
            task,
            *(f"{trusted[task][key]:.3f}" for key in TRUST),
            " ".join(f"{np.mean([run['dropout'][p] for run in runs]):.3f}" for p in runs[0]["dropout"]),
            f"{np.mean([run['by_name'] for run in runs]):.3f}",
        )
        for task, runs in by_task.items()
    ]
    trust.append(("mean", *(f"{np.mean([t[key] for t in trusted.values()]):.3f}" for key in TRUST), "", ""))
    own = methods[0]
    whole_body = [
        (
            task,
            *(f"{value:.3f}" for value in _few_and_many(runs, own)),
            runs[0]["whole_body"]["n_labels"],
            *(
                ", ".join(sorted({x for r in of for x in r["vanished"]}))
                for of in (runs, [r["whole_body"] for r in runs])
            ),
        )
        for task, runs in by_task.items()
    ]
    means = np.mean([_few_and_many(runs, own) for runs in by_task.values()], axis=0)
    whole_body.append(("mean", *(f"{value:.3f}" for value in means), "", "", ""))
    dropout = ", ".join(f"{float(p):.0%}" for p in scores[0]["dropout"])
    return [
        "# Zero-shot annotation of studies that were left out of training\n",
        f"`{command}`\n\nMean of {n_seeds} trainings.\n",
        markdown_table("Accuracy / macro F1", ["data set, labels", *methods, "chance"], beside),
        markdown_table(
            "Labels that training cells have shown, accuracy / macro F1",
            ["data set, labels", *methods, "number of labels"],
            seen,
        ),
        markdown_table(
            "Labels that they have not, accuracy / macro F1", ["data set, labels", *methods, "which"], unseen
        ),
        markdown_table(
            "Labels that fit, and with them foreign ones of the whole body",
            [
                "data set, labels",
                "accuracy, fitting labels",
                "accuracy, whole body",
                "number of labels",
                "labels of 20 cells or more of which less than a tenth is found",
                "the same, whole body",
            ],
            whole_body,
        ),
        markdown_table(
            "Calibration, unknown cells, dropout, labels as published",
            [
                "data set, labels",
                "expected calibration error",
                "the same, whole body",
                "the same, fitting labels, each cell by itself",
                "known cells kept",
                "cells of a type that is not offered, caught",
                "kept by the threshold of all sets",
                "caught by it",
                f"accuracy change with dropout of {dropout}",
                "accuracy, labels resolved by name",
            ],
            trust,
        ),
    ]


def _few_and_many(runs: Scores, method: str) -> tuple[float, float]:
    few = [run["methods"][method]["all"]["accuracy"] for run in runs]
    return float(np.mean(few)), float(np.mean([run["whole_body"]["accuracy"] for run in runs]))


def _mean_pair(values: list[Mapping[str, float]]) -> str:
    return " / ".join(f"{np.mean([v[key] for v in values]):.3f}" for key in ("accuracy", "macro_f1"))
