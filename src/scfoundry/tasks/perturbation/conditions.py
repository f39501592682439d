"""Which conditions respond alike: the same genes perturbed, genes that the model sees alike, groups of like cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scfoundry._arguments import quoted
from scfoundry.data.matrix.contexts import Context
from scfoundry.tasks.perturbation.shrinkage import shrink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells

    Array = NDArray[np.float64]

__all__ = ["Condition", "Prior", "by_group", "choose_prior", "control_cells", "kernels", "usual_distance"]

# Shares of a gene's response that all perturbations have in common; genes differ in theirs.
COMMON = (0.0, 0.1, 0.3, 0.5)
# Shares of a gene's response that all groups of cells have in common; genes differ in theirs.
SHARED = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
LIKENESS = (0.0, 0.3, 0.7)
REACH = (0.0, 0.5, 1.0, 2.0)

# Shares of a group's own response that like groups have, too, where likeness of groups counts.
NEAR = (0.0, 0.5, 0.9)
# Fewer groups cannot show whether like groups respond alike.
LEAST_GROUPS = 6
# Log evidence that likeness, of genes or groups, must add before it counts.
LEAST_GAIN = 5.0
# Conditions that choices are made on; more would not change them.
MOST_COMPARED = 400


class Condition(NamedTuple):
    """What was perturbed, in which group of cells."""

    parts: tuple[str, ...]
    group: str


def control_cells(cells: Cells, conditions: Sequence[Condition | None]) -> Cells:
    """The control cells (conditions without parts), each group a context; `None` is the condition of cells left out.

    Raises `ValueError` if a group has perturbed cells but no controls.
    """
    controls = [condition is not None and not condition.parts for condition in conditions]
    groups = ["" if condition is None else condition.group for condition in conditions]
    rows = np.flatnonzero(controls)
    found = by_group(cells.take(rows), [groups[i] for i in rows])
    lacking = sorted({c.group for c in conditions if c is not None} - {context.name for context in found.contexts})
    if lacking:
        msg = (
            f"The group {quoted(lacking)} has perturbed cells but no control cells to compare them with. "
            f"Leave it out: adata = adata[~adata.obs[group_key].isin({lacking})].copy()."
        )
        raise ValueError(msg)
    return found


def by_group(cells: Cells, groups: Sequence[str]) -> Cells:
    """The same cells, each group (n,) a context: groups by name, and the cells within by theirs."""
    labels = np.asarray(groups, dtype=str)
    order = np.lexsort((cells.names, labels))
    contexts = [Context(str(group), np.flatnonzero(labels[order] == group)) for group in np.unique(labels)]
    return replace(cells.take(order), contexts=contexts, coordinates={})


@dataclass(frozen=True)
class Prior:
    """How conditions resemble each other.

    Where there are not several parts or groups to learn from, what is common cannot be separated from what is not.
    ``likeness`` is the share of a perturbed gene's own effect that others have whose replacement moves the model's
    cells in the same direction; ``reach`` the distance, in usual ones, at which the likeness of groups fades, 0 if
    groups are equally strange to each other.
    """

    several_parts: bool
    several_groups: bool
    likeness: float = 0.0
    reach: float = 0.0

    @property
    def mixture(self) -> Array:
        """How much of every part is in every kernel that a gene may follow, (K, B)."""
        common: list[tuple[float, ...]] = [(1.0,)]
        shared: list[tuple[float, ...]] = [(1.0,)]
        if self.several_parts:
            common = [(share, 1 - share) for share in COMMON]
        if self.reach:
            shared = [(share, (1 - share) * near, (1 - share) * (1 - near)) for share in SHARED for near in NEAR]
        elif self.several_groups:
            shared = [(share, 1 - share) for share in SHARED]
        return np.array([np.outer(between, across).ravel() for between in common for across in shared])


def kernels(
    rows: Sequence[Condition],
    columns: Sequence[Condition],
    prior: Prior,
    shifts: Mapping[str, Array],
    states: Mapping[str, Array],
) -> Array:
    """Parts of the kernels for m and n conditions, each saying how far true changes go together, (B, m, n).

    What all perturbations have in common (where there are several) and what is a gene's own; times what all groups have
    in common (where there are several), what like groups have (where that counts), and what is a group's own. A
    combination is the sum of its genes. Genes without a shift, and groups without a state, are like none other.

    Shifts: where the model's cells move when a gene is perturbed, from where they move on average, (Z,) by gene.
    States: where the controls of a group lie, in units of the usual distance of groups, (Z,) by group.
    """
    (left, in_left), (right, in_right) = _members(rows), _members(columns)
    own = (np.array(left)[:, None] == np.array(right)).astype(np.float64)
    if prior.likeness:
        own = (1 - prior.likeness) * own + prior.likeness * _alike(left, right, shifts)
    between = [np.outer(in_left.sum(1), in_right.sum(1))] if prior.several_parts else []
    between.append(in_left @ own @ in_right.T)
    if not prior.several_groups:
        return np.array(between)

    groups = [np.unique([condition.group for condition in side], return_inverse=True) for side in (rows, columns)]
    (first, of_row), (second, of_column) = groups
    across = [np.ones((len(first), len(second))), (first[:, None] == second).astype(np.float64)]
    if prior.reach:
        across.insert(1, _near(first.tolist(), second.tolist(), states, prior.reach))
    return np.array([kernel * shared[np.ix_(of_row, of_column)] for kernel in between for shared in across])


def _members(conditions: Sequence[Condition]) -> tuple[list[str], Array]:
    """Parts of conditions, and which is in which, (n, parts)."""
    names = sorted({part for condition in conditions for part in condition.parts})
    position = {part: i for i, part in enumerate(names)}
    table = np.zeros((len(conditions), len(names)))
    for i, condition in enumerate(conditions):
        table[i, [position[part] for part in condition.parts]] = 1
    return names, table


def choose_prior(
    conditions: Sequence[Condition],
    noise: Array,
    changes: Array,
    shifts: Mapping[str, Array],
    states: Mapping[str, Array],
    rng: np.random.Generator,
) -> Prior:
    """The likeness of genes and of groups under which the measured changes are the most probable."""
    groups = {condition.group for condition in conditions}
    parts = {part for condition in conditions for part in condition.parts}
    if len(conditions) > MOST_COMPARED:
        drawn = np.sort(rng.choice(len(conditions), MOST_COMPARED, replace=False))
        conditions, noise, changes = [conditions[i] for i in drawn], noise[np.ix_(drawn, drawn)], changes[drawn]

    def best(simplest: Prior, others: Sequence[Prior]) -> Prior:
        if not others:
            return simplest
        evidence = {
            prior: shrink(
                kernels(conditions, conditions, prior, shifts, states), prior.mixture, noise, changes
            ).evidence
            for prior in (simplest, *others)
        }
        evidence[simplest] += LEAST_GAIN
        return max(evidence, key=lambda prior: evidence[prior])

    prior = Prior(several_parts=len(parts) > 1, several_groups=len(groups) > 1)
    if len(groups) >= LEAST_GROUPS and groups <= states.keys():
        prior = best(prior, [replace(prior, reach=reach) for reach in REACH[1:]])
    if len(parts & shifts.keys()) > 1:
        prior = best(prior, [replace(prior, likeness=likeness) for likeness in LIKENESS[1:]])
    return prior


def usual_distance(states: Mapping[str, Array]) -> float:
    """Median distance of groups, the unit of `Prior.reach`."""
    places = np.array(list(states.values()))
    distances = np.linalg.norm(places[:, None] - places, axis=2) if states else np.zeros(0)
    return float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0


def _alike(rows: Sequence[str], columns: Sequence[str], shifts: Mapping[str, Array]) -> Array:
    """Cosine between the directions in which parts move the model's cells; of a part with itself 1."""
    left, right = (
        np.array([part in shifts and np.linalg.norm(shifts[part]) > 0 for part in parts]) for parts in (rows, columns)
    )
    alike = np.zeros((len(rows), len(columns)))
    if left.any() and right.any():
        first, second = (
            np.array([shifts[part] / np.linalg.norm(shifts[part]) for part in np.array(parts)[moved]])
            for parts, moved in ((rows, left), (columns, right))
        )
        alike[np.ix_(left, right)] = first @ second.T
    alike[np.array(rows)[:, None] == np.array(columns)] = 1
    return alike


def _near(rows: Sequence[str], columns: Sequence[str], states: Mapping[str, Array], reach: float) -> Array:
    """Likeness of groups, fading with the distance of their controls; of a group with itself 1."""
    near = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if row == column:
                near[i, j] = 1
            elif row in states and column in states:
                near[i, j] = np.exp(-np.linalg.norm(states[row] - states[column]) / reach)
    return near
