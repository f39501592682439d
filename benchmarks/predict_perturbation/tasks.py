"""What is hidden, who predicts it, and how it is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import scfoundry as sf
from benchmarks.command import TWIN, untrained
from benchmarks.predict_perturbation.peers import from_other_groups, from_other_perturbations
from scfoundry.model._capabilities import FineTunesPerturbations, can

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from benchmarks.predict_perturbation.screens import Screen

    Array = NDArray[np.float64]
    Row = dict[str, Any]
    # Predicted profile, and the mean of controls that it starts from, by perturbation.
    Profiles = dict[str, tuple[Array, Array]]

__all__ = ["OURS", "PUBLISHED", "held_out_groups", "left_out_pairs", "unseen_genes"]

OURS = "sf.tl.predict_perturbation"
PUBLISHED = "the same, fine_tune=True"


def unseen_genes(screen: Screen, group: str, seed: int, model: Any, *, fine_tune: bool) -> Iterator[Row]:
    """A quarter of the perturbed genes is new (sheet of Adamson and Norman), in one group of cells."""
    screen = screen.restricted(screen.groups == group).halved(seed)
    sf.pp.split_perturbations(
        screen.adata, perturbation_key=screen.perturbation_key, control=screen.control, valid=0, rng=seed
    )
    table = screen.adata.uns["perturbation_split"]["perturbations"]
    tested = table[table["split"] == "test"]
    names = tested.index.tolist()
    predicted = _profiles(from_other_perturbations(screen, group, names, model), screen.start(group))
    predicted |= _ours(screen, group, names, model, seed)
    if fine_tune and can(model, FineTunesPerturbations):
        known = [name for name in names if (model.genes.index_of(name.split("+")) >= 0).all()]
        none = predicted["no change"]
        predicted[PUBLISHED] = none | _predicted(screen, group, known, model, seed, fine_tune=True)
    measured = set(table.index[table["split"] == "train"])
    for name in names:
        yield from _scored(
            screen, group, name, predicted, seed, kind=_kind(name, str(tested.loc[name, "group"]), measured)
        )


def left_out_pairs(screen: Screen, group: str, seed: int, model: Any) -> Iterator[Row]:
    """Every pair is hidden once, and all else is learned from."""
    screen = screen.restricted(screen.groups == group).halved(seed)
    names = sorted(set(screen.perturbations))
    for pair in (name for name in names if "+" in name):
        predicted = _profiles(from_other_perturbations(screen, group, [pair], model), screen.start(group))
        predicted |= _ours(screen, group, [pair], model, seed)
        n_singles = sum(gene in names for gene in pair.split("+"))
        kind = f"pairs, {('no single', 'one single', 'both singles')[n_singles]} measured"
        yield from _scored(screen, group, pair, predicted, seed, kind=kind)


def held_out_groups(screen: Screen, seed: int, model: Any) -> Iterator[Row]:
    """Every group in turn has shown its controls only."""
    screen = screen.halved(seed)
    tested = sorted(set(screen.perturbations) - {screen.control})
    for group in np.unique(screen.groups):
        predicted = _profiles(from_other_groups(screen, group, tested), screen.start(group))
        predicted |= _ours(screen, group, tested, model, seed, across=True)
        for name in tested:
            yield from _scored(screen, group, name, predicted, seed, kind="held-out groups")


def _ours(screen: Screen, group: str, names: list[str], model: Any, seed: int, **how: bool) -> dict[str, Profiles]:
    """With the given weights, and with random ones of the same structure: what pretraining adds."""
    weights = {OURS: model, TWIN: untrained(model, seed=seed)}
    return {method: _predicted(screen, group, names, chosen, seed, **how) for method, chosen in weights.items()}


def _predicted(
    screen: Screen,
    group: str,
    names: list[str],
    model: Any,
    seed: int,
    *,
    across: bool = False,
    fine_tune: bool = False,
) -> Profiles:
    """Predicted profiles and the controls they start from, by name, as the verb writes them."""
    seen = screen.adata[screen.shown].copy()
    sf.tl.predict_perturbation(
        seen,
        perturbation_key=screen.perturbation_key,
        control=screen.control,
        perturbations=names,
        group_key=screen.group_key if across else None,
        groups=group if across else None,
        model=model,
        fine_tune=fine_tune,
        rng=seed,
    )
    found = seen.uns["perturbation"]["profiles"]
    return dict(zip(names, zip(found.X, found.layers["control"], strict=True), strict=True))


def _profiles(changes: dict[str, dict[str, Array]], start: Array) -> dict[str, Profiles]:
    """Profiles of methods that predict changes."""
    return {method: {name: (start + one, start) for name, one in found.items()} for method, found in changes.items()}


def _scored(
    screen: Screen, group: str, name: str, predicted: dict[str, Profiles], seed: int, *, kind: str
) -> Iterator[Row]:
    """Scores of every method on one condition."""
    truth = screen.log[screen.cells(name, group)]
    kept_back = screen.log[screen.cells(screen.control, group) & ~screen.shown]
    for method, profiles in predicted.items():
        scores = sf.metrics.perturbation(truth, kept_back, *profiles[name], rng=seed)
        yield {"kind": kind, "group": group, "perturbation": name, "seed": seed, "method": method} | scores.to_dict()


def _kind(name: str, group: str, measured: set[str]) -> str:
    """Singles, and pairs by how many of their genes are new."""
    if group == "single":
        return "singles, gene unseen"
    both = group == "0/2 unseen" and set(name.split("+")) <= measured
    return f"pairs, {group}" + (" (both singles measured)" if both else "")
