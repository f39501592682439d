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
            *(f"{trusted[task][key]:.3f}" for key in ("ece", "ece_alone", "kept", "caught")),
            " ".join(f"{np.mean([run['dropout'][p] for run in runs]):.3f}" for p in runs[0]["dropout"]),
            f"{np.mean([run['by_name'] for run in runs]):.3f}",
        )
        for task, runs in by_task.items()
    ]
    columns = ("ece", "ece_alone", "kept", "caught")
    trust.append(("mean", *(f"{np.mean([t[key] for t in trusted.values()]):.3f}" for key in columns), "", ""))
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
            "Calibration, unknown cells, dropout, labels as published",
            [
                "data set, labels",
                "expected calibration error",
                "the same, each cell by itself",
                "known cells kept",
                "cells of a type that is not offered, caught",
                f"accuracy change with dropout of {dropout}",
                "accuracy, labels resolved by name",
            ],
            trust,
        ),
    ]


def _mean_pair(values: list[Mapping[str, float]]) -> str:
    return " / ".join(f"{np.mean([v[key] for v in values]):.3f}" for key in ("accuracy", "macro_f1"))
