"""What a model learned of perturbations, and the file it rests in beside the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from scfoundry.nn.counts import SparseCounts
from scfoundry.tasks.perturbation.conditions import Condition, Prior

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["LearnedResponses"]


def _nothing() -> Array:
    return np.zeros((0, 0, 0))


@dataclass(frozen=True)
class LearnedResponses:
    """Everything that `predict_perturbations` needs beside the weights.

    Attributes
    ----------
    genes
        Names of the G genes that are predicted.
    control
        Name of the control.
    sep
        What joins the parts of a combination.
    value
        What a perturbed gene's log expression was replaced with.
    fine_tuned
        Whether the network itself predicts, as published, instead of what follows here.
    conditions
        The n conditions that were learned from, sorted.
    reference
        Log expression of the control cells that shifts are measured in.
    prior
        What conditions tell about each other.
    coefficients
        (B, n, G), in units of log expression.
    level
        Mean control profile of the groups learned from, (G,).
    reversion
        How far a perturbed level forgets that of the controls.
    measured, refined
        By group, mean control profile, (G,), as measured, and less the noise that all changes from it have in common.
    shifts, states
        By gene, and by group, see `kernels`.
    centre, distance
        What shifts are measured from, (Z,), and states in units of; set by what was learned, so that a prediction does
        not depend on what else is asked for.
    seed
        Of the controls that a trained network reads.
    """

    genes: NDArray[np.str_]
    control: str
    sep: str | None
    value: float
    fine_tuned: bool
    conditions: list[Condition]
    reference: SparseCounts
    prior: Prior = field(default_factory=lambda: Prior(several_parts=False, several_groups=False))
    coefficients: Array = field(default_factory=_nothing)
    level: Array = field(default_factory=_nothing)
    reversion: float = 0.0
    measured: dict[str, Array] = field(default_factory=dict)
    refined: dict[str, Array] = field(default_factory=dict)
    shifts: dict[str, Array] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)
    centre: Array = field(default_factory=_nothing)
    distance: float = 1.0
    seed: int = 0

    @property
    def parts(self) -> set[str]:
        """Genes (or conditions) that were seen perturbed."""
        return {part for condition in self.conditions for part in condition.parts}

    def write(self, path: Path) -> None:
        """Write plain arrays: nothing has to be unpickled to read them."""
        lengths = [len(condition.parts) for condition in self.conditions]
        np.savez_compressed(
            path,
            allow_pickle=False,
            genes=self.genes.astype(str),
            names=np.array([self.control, *([] if self.sep is None else [self.sep])]),
            value=self.value,
            fine_tuned=self.fine_tuned,
            parts=np.array([part for condition in self.conditions for part in condition.parts]),
            lengths=np.array(lengths),
            groups=np.array([condition.group for condition in self.conditions]),
            several=np.array([self.prior.several_parts, self.prior.several_groups]),
            extents=np.array([self.prior.likeness, self.prior.reach]),
            coefficients=self.coefficients,
            level=self.level,
            reversion=self.reversion,
            group_names=np.array(list(self.measured), dtype=str),
            measured=np.array(list(self.measured.values())),
            refined=np.array([self.refined[group] for group in self.measured]),
            shift_names=np.array(list(self.shifts), dtype=str),
            shifts=np.array(list(self.shifts.values())),
            state_names=np.array(list(self.states), dtype=str),
            states=np.array(list(self.states.values())),
            centre=self.centre,
            distance=self.distance,
            seed=self.seed,
            reference_indptr=self.reference.indptr.numpy(),
            reference_genes=self.reference.genes.numpy(),
            reference_values=self.reference.values.numpy(),
            n_vocabulary=self.reference.n_genes,
        )

    @classmethod
    def read(cls, path: Path) -> LearnedResponses:
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as saved:
            stored = dict(saved)
        control, *sep = stored["names"].tolist()
        members = np.split(stored["parts"], np.cumsum(stored["lengths"])[:-1])
        return cls(
            genes=stored["genes"],
            control=control,
            sep=sep[0] if sep else None,
            value=float(stored["value"]),
            fine_tuned=bool(stored["fine_tuned"]),
            conditions=[
                Condition(tuple(parts.tolist()), group)
                for parts, group in zip(members, stored["groups"].tolist(), strict=True)
            ],
            prior=Prior(*stored["several"].tolist(), *stored["extents"].tolist()),
            coefficients=stored["coefficients"],
            level=stored["level"],
            reversion=float(stored["reversion"]),
            reference=SparseCounts(
                indptr=torch.from_numpy(stored["reference_indptr"]),
                genes=torch.from_numpy(stored["reference_genes"]),
                values=torch.from_numpy(stored["reference_values"]),
                n_genes=int(stored["n_vocabulary"]),
            ),
            measured=dict(zip(stored["group_names"].tolist(), stored["measured"], strict=True)),
            refined=dict(zip(stored["group_names"].tolist(), stored["refined"], strict=True)),
            shifts=dict(zip(stored["shift_names"].tolist(), stored["shifts"], strict=True)),
            states=dict(zip(stored["state_names"].tolist(), stored["states"], strict=True)),
            centre=stored["centre"],
            distance=float(stored["distance"]),
            seed=int(stored["seed"]),
        )
