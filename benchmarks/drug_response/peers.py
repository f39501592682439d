"""What needs no model: means, ridge, neighbours, forest and boosting on expression x fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge, RidgeCV

from scfoundry.data.fingerprints import morgan_fingerprints, tanimoto

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.drug_response.tasks import Task

    Array = NDArray[np.float64]

__all__ = ["PEERS"]

ALPHAS = np.logspace(0, 5, 11)
N_NEIGHBOURS, N_COMPONENTS = 15, 50


def features(task: Task) -> Array:
    """Expression of all lines, standardised by the lines that have a training response."""
    values = np.asarray(task.lines.X, dtype=float)
    known = task.train.notna().any(axis=1).to_numpy()
    deviation = values[known].std(0)
    return (values - values[known].mean(0)) / np.where(deviation > 0, deviation, 1)


def drug_mean(task: Task) -> Array:
    """Mean of every drug; of new drugs, that of all."""
    overall = float(np.nanmean(task.train.to_numpy()))
    return np.tile(task.train.mean().fillna(overall).to_numpy(), (len(task.train), 1))


def drug_and_line_mean(task: Task) -> Array:
    """The same, and the mean deviation of a line from it."""
    return drug_mean(task) + (task.train - task.train.mean()).mean(axis=1).fillna(0.0).to_numpy()[:, None]


def per_drug_ridge(task: Task) -> Array:
    """Ridge regression for every drug by itself, its penalty by leaving out one line at a time."""
    values, found = features(task), drug_mean(task)
    for j, drug in enumerate(task.train):
        known = task.train[drug].notna().to_numpy()
        if known.any():
            ridge = RidgeCV(ALPHAS).fit(values[known], task.train[drug].to_numpy()[known])
            found[:, j] = ridge.predict(values)
    return found


def per_drug_neighbours(task: Task) -> Array:
    """Mean of the lines with the most similar expression, drug by drug."""
    similarity, found = np.corrcoef(features(task)), drug_mean(task)
    for j, drug in enumerate(task.train):
        known = np.flatnonzero(task.train[drug].notna())
        if len(known):
            nearest = known[np.argsort(-similarity[:, known], axis=1)[:, :N_NEIGHBOURS]]
            found[:, j] = task.train[drug].to_numpy()[nearest].mean(1)
    return found


def similar_drugs(task: Task) -> Array:
    """Responses to known drugs, weighted by the similarity of their structure; for new drugs."""
    bits, known = fingerprints(task), task.train.notna().any().to_numpy()
    near = tanimoto(bits, bits[known]) ** 4
    filled = np.where(task.train.notna(), task.train, drug_and_line_mean(task))[:, known]
    return filled @ (near / near.sum(1, keepdims=True)).T


def fingerprints(task: Task) -> NDArray[np.uint8]:
    """Of all drugs; nothing for those without SMILES."""
    found = np.zeros((task.train.shape[1], 2048), dtype=np.uint8)
    structured = [j for j, drug in enumerate(task.train) if drug in task.smiles]
    found[structured] = morgan_fingerprints(
        {task.train.columns[j]: task.smiles[task.train.columns[j]] for j in structured}
    )
    return found


def on_pairs(task: Task, regression: object) -> Array:
    """One regression of all pairs on components of expression and of fingerprints, and means of training pairs."""
    lines = components(features(task), task.train.notna().any(axis=1).to_numpy())
    drugs = components(fingerprints(task).astype(float), task.train.notna().any().to_numpy())
    rows, columns = np.nonzero(task.train.notna().to_numpy())
    pairs = np.hstack([lines[rows], drugs[columns]]).astype(np.float32)
    regression.fit(pairs, task.train.to_numpy()[rows, columns])  # type: ignore[attr-defined]
    found = np.full(task.train.shape, np.nan)
    asked = np.nonzero(task.test.notna().to_numpy())
    wanted = np.hstack([lines[asked[0]], drugs[asked[1]]]).astype(np.float32)
    found[asked] = regression.predict(wanted)  # type: ignore[attr-defined]
    return found


def components(values: Array, known: NDArray[np.bool_]) -> Array:
    """Scores on the principal axes of the rows that were learned from."""
    center = values[known].mean(0)
    axes = np.linalg.svd(values[known] - center, full_matrices=False)[2][:N_COMPONENTS]
    return (values - center) @ axes.T


def forest(task: Task) -> Array:
    """Random forest."""
    settings = {"n_estimators": 30, "max_features": 0.2, "min_samples_leaf": 2, "n_jobs": 1}
    return on_pairs(task, RandomForestRegressor(random_state=task.seed, **settings))


def boosting(task: Task) -> Array:
    """Gradient boosting."""
    return on_pairs(task, HistGradientBoostingRegressor(max_iter=200, learning_rate=0.1, random_state=task.seed))


def ridge_on_pairs(task: Task) -> Array:
    """Ridge regression on components of expression and fingerprints side by side."""
    return on_pairs(task, Ridge(alpha=10.0))


PEERS: dict[str, Callable[[Task], Array]] = {
    "drug mean": drug_mean,
    "drug + line mean": drug_and_line_mean,
    "per-drug ridge": per_drug_ridge,
    "per-drug kNN": per_drug_neighbours,
    "ridge on expression x fingerprint": ridge_on_pairs,
    "random forest on expression x fingerprint": forest,
    "gradient boosting on expression x fingerprint": boosting,
    "mean of similar drugs": similar_drugs,
}
