"""What needs no model: means, sums, the nearest group, and ridge regression on gene vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import RidgeCV

from scfoundry.model._capabilities import HasGeneVectors, can

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.predict_perturbation.screens import Screen

    Array = NDArray[np.float64]
    Changes = dict[str, Array]

__all__ = ["from_other_groups", "from_other_perturbations"]

ALPHAS = np.logspace(-1, 3, 9)


def from_other_perturbations(screen: Screen, group: str, tested: list[str], model: Any) -> dict[str, Changes]:
    """Changes of tested perturbations, single or pairs, from all others in the same group; by method and name."""
    in_group = screen.groups == group
    names = sorted(set(screen.perturbations[in_group]) - {screen.control, *tested})
    learned = {name: screen.change(name, group) for name in names}
    everything = np.mean(list(learned.values()), axis=0)
    singles = [change for name, change in learned.items() if "+" not in name]
    single = np.mean(singles, axis=0) if singles else everything

    def added(name: str) -> Array:
        return np.sum([learned.get(gene, single) for gene in name.split("+")], axis=0)

    found = {
        "no change": {name: np.zeros_like(everything) for name in tested},
        "mean of all perturbations": dict.fromkeys(tested, everything),
        "mean of singles": dict.fromkeys(tested, single),
        "additive (unseen gene: mean of singles)": {name: added(name) for name in tested},
    }
    if can(model, HasGeneVectors):
        vectors = _gene_vectors([*names, *tested], model)
        ridge = RidgeCV(ALPHAS).fit(vectors[: len(names)], np.array(list(learned.values())))
        by_ridge = ridge.predict(vectors[len(names) :])
        found[f"ridge on {type(model).__name__}'s gene vectors"] = dict(zip(tested, by_ridge, strict=True))
    return found


def from_other_groups(screen: Screen, group: str, tested: list[str]) -> dict[str, Changes]:
    """Changes of tested perturbations in a group from the other groups; by method and name."""
    others = sorted(set(screen.groups) - {group})
    start = screen.start(group)
    nearest = min(others, key=lambda other: float(np.linalg.norm(screen.start(other) - start)))
    elsewhere = screen.groups != group
    controls = screen.log[(screen.perturbations == screen.control) & elsewhere & screen.shown].mean(0)
    measured = {name: np.mean([screen.change(name, other) for other in others], axis=0) for name in tested}
    found = {
        "no change": {name: np.zeros_like(start) for name in tested},
        "mean shift of other groups": measured,
        "shift of the cells of all other groups": {
            name: screen.log[(screen.perturbations == name) & elsewhere].mean(0) - controls for name in tested
        },
        "shift of the nearest group": {name: screen.change(name, nearest) for name in tested},
    }
    if len(tested) > 1:
        everything = np.mean(list(measured.values()), axis=0)
        found["mean shift of all perturbations"] = dict.fromkeys(tested, everything)
    return found


def _gene_vectors(names: list[str], model: Any) -> Array:
    """Sum of the unit vectors of the perturbed genes, 0 for genes that the model does not know."""
    vectors = model.gene_vectors().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    positions = [model.genes.index_of(name.split("+")) for name in names]
    return np.array([vectors[known[known >= 0]].sum(0) for known in positions])
