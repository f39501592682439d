"""What was learned of perturbations: numbers and names, as they rest on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse

from scfoundry.data.matrix.cells import Cells
from scfoundry.data.matrix.contexts import Context
from scfoundry.data.matrix.reader import CountsInMemory
from scfoundry.data.perturbations import Naming
from scfoundry.tasks._fitted import prefixed, under
from scfoundry.tasks.perturbation.conditions import Condition, Prior, choose_prior, kernels, usual_distance
from scfoundry.tasks.perturbation.shrinkage import shrink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry.tasks.perturbation.measured import MeasuredResponses

    Array = NDArray[np.float64]

__all__ = ["LearnedResponses"]

# How fields rest on disk.
ARRAYS, BY_NAME = ("genes", "coefficients", "level", "centre"), ("measured", "refined", "shifts", "states")
COUNTS = ("data", "indices", "indptr")


def _empty() -> Array:
    return np.zeros((0, 0, 0))


@dataclass(frozen=True, eq=False)
class LearnedResponses:
    """Everything that a prediction needs beside the model.

    ``centre`` and ``distance`` are set by what was learned, so that a prediction does not depend on what else is asked
    for. With a ``head`` the fine-tuned model itself predicts the genes that it knows; what stands between ``seed`` and
    it is then of the others, and not known where there are none.
    """

    genes: NDArray[np.str_]  # names of the G genes that are predicted
    naming: Naming  # how the screen was written down
    value: float  # what a perturbed gene's log expression was replaced with
    conditions: list[Condition]  # the n that were learned from, sorted
    reference: Cells  # control cells, in memory, that shifts are measured in
    seed: int  # of the controls that a fine-tuned model reads
    prior: Prior = field(default_factory=lambda: Prior(several_parts=False, several_groups=False))
    coefficients: Array = field(default_factory=_empty)  # (B, n, G), log expression
    level: Array = field(default_factory=_empty)  # mean control profile of the groups learned from, (G,)
    reversion: float = 0.0  # how far a perturbed level forgets that of the controls
    measured: dict[str, Array] = field(default_factory=dict)  # mean control profile by group, (G,)
    refined: dict[str, Array] = field(default_factory=dict)  # less the noise all changes from it share
    shifts: dict[str, Array] = field(default_factory=dict)  # by gene, see `kernels`
    states: dict[str, Array] = field(default_factory=dict)  # by group, see `kernels`
    centre: Array = field(default_factory=_empty)  # what shifts are measured from, (Z,)
    distance: float = 1.0  # unit of states
    head: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # weights by name

    @property
    def parts(self) -> set[str]:
        """Genes (or conditions) that were seen perturbed."""
        return {part for condition in self.conditions for part in condition.parts}

    def shrunken(
        self,
        responses: MeasuredResponses,
        shifts: Mapping[str, Array],
        states: Mapping[str, Array],
        rng: np.random.Generator,
    ) -> Self:
        """The same with the coefficients under the most probable prior."""
        reversion = responses.reversion()
        controls = np.array([responses.controls[condition.group] for condition in responses.conditions])
        groups = sorted({condition.group for condition in responses.conditions})
        level = np.mean([responses.controls[group] for group in groups], axis=0)
        centre = np.mean([shifts[part] for part in sorted(shifts)], axis=0) if shifts else self.centre
        shifts = {part: shift - centre for part, shift in shifts.items()}
        distance = usual_distance(states)
        states = {group: place / distance for group, place in states.items()}
        changes = (responses.changes() - reversion * (controls - level)) / responses.spread
        noise = responses.noise(reversion)
        prior = choose_prior(responses.conditions, noise, changes, shifts, states, rng)
        found = shrink(
            kernels(responses.conditions, responses.conditions, prior, shifts, states), prior.mixture, noise, changes
        )
        refined = {}
        for group, profile in responses.controls.items():
            of_group = [condition.group == group for condition in responses.conditions]
            # A change is measured from noisy controls, so what all changes of a group share is in part their noise.
            shared = (1 + reversion) * found.residuals[of_group].sum(0)
            refined[group] = np.maximum(profile + shared * responses.spread / responses.n_controls[group], 0)
        return replace(
            self,
            prior=prior,
            coefficients=found.coefficients * responses.spread,
            measured=responses.controls,
            refined=refined,
            level=level,
            reversion=reversion,
            shifts=shifts,
            states=states,
            centre=centre,
            distance=distance,
        )

    def change(
        self, conditions: Sequence[Condition], control: Array, shifts: Mapping[str, Array], states: Mapping[str, Array]
    ) -> Array:
        """Change of the control profiles, (m, G), under m conditions, (m, G)."""
        # Of what nobody has seen perturbed nothing is known, not even that it forgets levels.
        seen = np.array([bool(self.parts.intersection(condition.parts)) for condition in conditions])
        change = self.reversion * (control - self.level) * seen[:, None]
        parts = kernels(conditions, self.conditions, self.prior, shifts, states)
        for kernel, coefficients in zip(parts, self.coefficients, strict=True):
            change += kernel @ coefficients
        return change

    # ---- on disk -----------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, NDArray]:
        """Numbers and names; nothing has to be unpickled to read them."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        for kind in BY_NAME:
            by_name = getattr(self, kind)
            arrays |= {f"{kind}_names": np.array(list(by_name), dtype=str), kind: np.array(list(by_name.values()))}
        counts = self.reference.read()
        reference = {
            **{part: getattr(counts, part) for part in COUNTS},
            "shape": np.array(counts.shape),
            "genes": self.reference.measured,
            "names": self.reference.names,
        }
        return arrays | {
            "parts": np.array([part for condition in self.conditions for part in condition.parts]),
            "lengths": np.array([len(condition.parts) for condition in self.conditions]),
            "groups": np.array([condition.group for condition in self.conditions]),
            **prefixed("reference_", reference),
            **prefixed("head.", self.head),
        }

    def values(self) -> dict[str, Any]:
        """What is no array."""
        return {
            "naming": self.naming._asdict(),
            "prior": asdict(self.prior),
            "value": float(self.value),
            "seed": int(self.seed),
            "reversion": self.reversion,
            "distance": self.distance,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        """Put together what `arrays` and `values` took apart."""
        stored: dict[str, Any] = {**values, **{name: arrays[name] for name in ARRAYS}}
        for kind in BY_NAME:
            stored[kind] = dict(zip(arrays[f"{kind}_names"].tolist(), arrays[kind], strict=True))
        members = np.split(arrays["parts"], np.cumsum(arrays["lengths"])[:-1])
        named = zip(members, arrays["groups"].tolist(), strict=True)
        reference = under("reference_", arrays)
        counts = sparse.csr_matrix(tuple(reference[part] for part in COUNTS), shape=reference["shape"].tolist())
        return cls(
            **stored
            | {
                "naming": Naming(**values["naming"]),
                "prior": Prior(**values["prior"]),
                "conditions": [Condition(tuple(parts.tolist()), group) for parts, group in named],
                "reference": in_memory(counts, measured=reference["genes"], names=reference["names"]),
                "head": under("head.", arrays),
            }
        )


def in_memory(counts: sparse.csr_matrix, *, measured: NDArray[np.int64], names: NDArray[np.str_]) -> Cells:
    """Cells of one context that hold on to no AnnData."""
    return Cells(CountsInMemory(counts, measured), [Context("controls", np.arange(len(names)))], {}, names)
