"""Which conditions respond alike: the same genes perturbed, genes that the model sees alike, groups of like cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scfoundry.model.cellplm._shrinkage import shrink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Condition", "Prior", "choose_prior", "kernel"]

COMMON = (0.0, 0.1, 0.3, 0.5)
LIKENESS = (0.0, 0.3, 0.7)
SHARED = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
REACH = (0.0, 0.5, 1.0, 2.0)

OWN = 0.3
"""Share of a group's deviation that no likeness to other groups explains."""

LEAST_GROUPS = 6
"""Fewer groups cannot tell whether like groups respond alike."""

LEAST_GAIN = 5.0
"""Log evidence that likeness, of genes or groups, must add before it is believed."""

MOST_COMPARED = 400
"""Conditions that choices are made on; more would not change them."""


class Condition(NamedTuple):
    """What was perturbed, in which group of cells."""

    parts: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class Prior:
    """Shares of the change of a condition that others tell something about.

    Attributes
    ----------
    common
        What every perturbed gene changes alike; the rest is the gene's own.
    likeness
        Of the gene's own change, what it shares with genes whose loss moves the model's cells in the same direction.
    shared
        What is the same in all groups; the rest is the group's own.
    reach
        Distance, in medians, at which the likeness of groups fades; 0 if groups are equally strange to each other.
    """

    common: float = 0.3
    likeness: float = 0.0
    shared: float = 0.7
    reach: float = 0.0


def kernel(
    conditions: Sequence[Condition], prior: Prior, shifts: Mapping[str, Array], states: Mapping[str, Array]
) -> Array:
    """How far true changes go together, (n, n).

    A combination is the sum of its parts. Parts without a shift, and groups without a state, are like none other.

    Parameters
    ----------
    conditions
        n conditions.
    prior
        Shares.
    shifts
        Where the model's cells move when a gene is perturbed, (Z,) by gene.
    states
        Where the controls of a group lie, (Z,) by group.
    """
    parts = sorted({part for condition in conditions for part in condition.parts})
    position = {part: i for i, part in enumerate(parts)}
    members = np.zeros((len(conditions), len(parts)))
    for i, condition in enumerate(conditions):
        members[i, [position[part] for part in condition.parts]] = 1
    own = np.eye(len(parts))
    if prior.likeness:
        own = (1 - prior.likeness) * own + prior.likeness * _alike(parts, shifts)
    sizes = members.sum(1)
    between = prior.common * np.outer(sizes, sizes) + (1 - prior.common) * members @ own @ members.T

    names = [condition.group for condition in conditions]
    groups = sorted(set(names))
    if len(groups) == 1:
        return between
    index = [groups.index(name) for name in names]
    near = np.eye(len(groups))
    if prior.reach:
        near = OWN * near + (1 - OWN) * _near(groups, states, prior.reach)
    across = prior.shared + (1 - prior.shared) * near
    return between * across[np.ix_(index, index)]


def choose_prior(
    conditions: Sequence[Condition],
    noise: Array,
    changes: Array,
    shifts: Mapping[str, Array],
    states: Mapping[str, Array],
    rng: np.random.Generator,
) -> Prior:
    """The shares under which the measured changes are the most probable."""
    if len(conditions) > MOST_COMPARED:
        drawn = np.sort(rng.choice(len(conditions), MOST_COMPARED, replace=False))
        conditions, noise, changes = [conditions[i] for i in drawn], noise[np.ix_(drawn, drawn)], changes[drawn]

    def best(candidates: Sequence[Prior], simplest: Sequence[Prior]) -> Prior:
        evidence = {
            prior: shrink(kernel(conditions, prior, shifts, states), noise, changes).evidence
            - (0.0 if prior in simplest else LEAST_GAIN)
            for prior in candidates
        }
        return max(evidence, key=lambda prior: evidence[prior])

    prior = Prior()
    groups = {condition.group for condition in conditions}
    if len(groups) > 1:
        reaches = REACH if len(groups) >= LEAST_GROUPS and groups <= states.keys() else REACH[:1]
        tried = [replace(prior, shared=shared, reach=reach) for shared in SHARED for reach in reaches]
        prior = best(tried, [candidate for candidate in tried if not candidate.reach])
    parts = {part for condition in conditions for part in condition.parts}
    if len(parts) > 1:
        likenesses = LIKENESS if len(parts & shifts.keys()) > 1 else LIKENESS[:1]
        tried = [replace(prior, common=common, likeness=likeness) for common in COMMON for likeness in likenesses]
        prior = best(tried, [candidate for candidate in tried if not candidate.likeness])
    return prior


def _alike(parts: Sequence[str], shifts: Mapping[str, Array]) -> Array:
    """Cosine between the directions in which parts move the model's cells, 1 on the diagonal."""
    there = [i for i, part in enumerate(parts) if part in shifts]
    alike = np.eye(len(parts))
    if len(there) > 1:
        moved = np.array([shifts[parts[i]] for i in there])
        moved = moved - moved.mean(0)
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        moved = np.divide(moved, lengths, out=np.zeros_like(moved), where=lengths > 0)
        alike[np.ix_(there, there)] = moved @ moved.T
        np.fill_diagonal(alike, 1)
    return alike


def _near(groups: Sequence[str], states: Mapping[str, Array], reach: float) -> Array:
    """Likeness of groups, fading with the distance of their controls; 1 on the diagonal."""
    there = [i for i, group in enumerate(groups) if group in states]
    near = np.eye(len(groups))
    places = np.array([states[groups[i]] for i in there])
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    scale = np.median(distances[distances > 0]) if (distances > 0).any() else 1.0
    near[np.ix_(there, there)] = np.exp(-distances / (reach * scale))
    return near
