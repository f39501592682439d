"""Tables of the zero-shot benchmark."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from reporting import markdown_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["tables"]

Scores = list[dict[str, Any]]


def tables(scores: Scores, trusted: Mapping[str, Mapping[str, float]], seeds: Sequence[int]) -> list[str]:
    """Accuracy beside peers, seen and unseen types, trust, robustness."""
    by_task: dict[str, Scores] = defaultdict(list)
    for score in scores:
        by_task[score["task"]].append(score)
    methods = list(scores[0]["methods"])
    beside = [
        (task, *(_mean_pair([s["methods"][m] for s in runs]) for m in methods), f"{runs[0]['chance']:.2f}")
        for task, runs in by_task.items()
    ]
    kinds = [
        (task, _mean(runs, "seen"), _mean(runs, "unseen"), ", ".join(runs[0]["unseen_labels"]) or "none")
        for task, runs in by_task.items()
    ]
    trust = [
        (
            task,
            *(f"{trusted[task][key]:.3f}" for key in ("ece", "ece_alone", "kept", "caught")),
            _mean(runs, "dropout"),
            _mean(runs, "by_name"),
        )
        for task, runs in by_task.items()
    ]
    return [
        f"# Zero-shot annotation of studies that were left out of training\n\nMean of {len(seeds)} trainings.\n",
        markdown_table("Accuracy / macro F1", ["data set, labels", *methods, "chance"], beside),
        markdown_table("Accuracy by kind of label", ["data set, labels", "seen", "unseen", "unseen labels"], kinds),
        markdown_table(
            "Calibration, unknown cells, dropout, labels as published",
            [
                "data set, labels",
                "expected calibration error",
                "the same, each cell by itself",
                "known cells kept",
                "cells of a type that is not offered, caught",
                "accuracy change with 10 % dropout",
                "accuracy, labels resolved by name",
            ],
            trust,
        ),
    ]


def _mean_pair(values: list[Mapping[str, float]]) -> str:
    return " / ".join(f"{np.mean([v[key] for v in values]):.3f}" for key in ("accuracy", "macro_f1"))


def _mean(runs: Scores, key: str) -> str:
    found = [run[key] for run in runs if run[key] is not None]
    return f"{np.mean(found):.3f}" if found else "-"
