"""How far to trust labels: calibration, and cells that none of the labels fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import scfoundry as sf
from scfoundry.stats.adaptation import adapted_fit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from benchmarks.zero_shot_annotate.studies import LeftOut
    from benchmarks.zero_shot_annotate.tasks import Task

__all__ = ["TEMPERATURES", "error", "fits", "fitted", "trust"]

KEEP = 0.95
TEMPERATURES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
MAX_CELLS = 400
MIN_CELLS = 5


def error(probabilities: NDArray[np.float32], task: Task) -> float:
    """Expected calibration error."""
    right = probabilities.argmax(1) == task.truth
    return float(sf.metrics.calibration(probabilities.max(1).clip(0, 1), right)["ece"])


def fits(left_out: LeftOut, task: Task, components: NDArray[np.float64], seed: int) -> dict[str, list]:
    """How well the best label fits some cells: where all labels are offered, and where their own is not."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(task.truth))[:MAX_CELLS])
    labels, cells = left_out.labels(task), left_out.cells(task)

    def fit(offered: list) -> NDArray[np.float32]:
        scores = left_out.scores(cells, offered)
        own = scores.probabilities.max(1) if scores.fit is None else scores.fit
        return adapted_fit(own, components, cells.by_name) if left_out.model.adapts else own

    strange = []
    for position in range(len(labels)):
        own = chosen[task.truth[chosen] == position]
        if len(own) >= MIN_CELLS:
            strange.append(fit(labels[:position] + labels[position + 1 :])[own].tolist())
    return {"known": fit(labels)[chosen].tolist(), "strange": strange}


def fitted(scores: list[dict[str, Any]]) -> dict[str, float]:
    """Temperature and threshold that some runs call for: the latter spares the known cells of every one of them."""
    lowest = [np.quantile(s["fits"]["known"], 1 - KEEP) for s in scores]
    both = [error for s in scores for error in (s["ece"], s["whole_body"]["ece"])]
    temperature = min(TEMPERATURES, key=lambda t: np.mean([of_run[str(t)] for of_run in both]))
    return {"temperature": temperature, "threshold": float(min(lowest))}


def trust(scores: list[dict[str, Any]], fold_of: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Calibration and unknown cells of every task, by what the other studies call for.

    Kept and caught are given once more by the threshold that all of them call for, which is what weights carry.
    """
    found, of_all = {}, fitted(scores)["threshold"]
    for task, fold in fold_of.items():
        runs = [s for s in scores if s["task"] == task]
        others = fitted([s for s in scores if fold_of[s["task"]] != fold] or runs)
        limit = others["threshold"]
        found[task] = others | {
            "ece": float(np.mean([run["ece"][str(others["temperature"])] for run in runs])),
            "ece_whole_body": float(np.mean([run["whole_body"]["ece"][str(others["temperature"])] for run in runs])),
            "ece_alone": float(np.mean([run["ece_alone"] for run in runs])),
            "kept": _kept(runs, limit),
            "caught": _caught(runs, limit),
            "kept_by_all": _kept(runs, of_all),
            "caught_by_all": _caught(runs, of_all),
        }
    return found


def _kept(runs: list[dict[str, Any]], limit: float) -> float:
    return float(np.mean([np.mean(np.array(run["fits"]["known"]) >= limit) for run in runs]))


def _caught(runs: list[dict[str, Any]], limit: float) -> float:
    return float(np.mean([np.mean(np.array(own) < limit) for run in runs for own in run["fits"]["strange"]]))
