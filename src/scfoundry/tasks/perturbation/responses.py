"""What perturbations change, learned with any model that embeds cells, and the change of those nobody has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scfoundry._arguments import quoted
from scfoundry.data.perturbations import members_of, positions_of, require_known
from scfoundry.model._capabilities import FineTunesPerturbations, ReplacesGenes, can, require
from scfoundry.tasks._fitted import Fitted
from scfoundry.tasks.perturbation.conditions import LEAST_GROUPS, Condition, by_group, control_cells
from scfoundry.tasks.perturbation.learned import LearnedResponses, in_memory
from scfoundry.tasks.perturbation.measured import measure_responses, profiles
from scfoundry.tasks.perturbation.replaced_genes import gene_shifts

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.perturbations import Naming
    from scfoundry.model._capabilities import Embeds
    from scfoundry.tasks.perturbation.measured import MeasuredResponses

    Array = NDArray[np.float64]

__all__ = ["Responses"]

# Control cells in which genes are perturbed for the model to see; more would hardly move their mean.
REFERENCE_CELLS = 64
# Control cells of a group that a fine-tuned model reads.
MOST_CONTROLS = 512


@dataclass(frozen=True, eq=False)
class Responses(Fitted):
    """What perturbations change, learned from a screen.

    Attributes
    ----------
    model
        Model that it was learned with; a fine-tuned copy with ``fine_tune=True``.
    learned
        Numbers and names that were learned with it.

    Examples
    --------
    >>> fitted.save("my_screen")  # doctest: +SKIP
    >>> sf.tl.predict_perturbation(adata, perturbations="KLF1+SET", model="my_screen")  # doctest: +SKIP
    """

    model: Embeds
    learned: LearnedResponses

    @classmethod
    def fit(
        cls,
        model: Embeds,
        cells: Cells,
        conditions: Sequence[Condition | None],
        naming: Naming,
        *,
        value: float = -100.0,
        fine_tune: bool = False,
        max_epochs: int | None = None,
        seed: int = 0,
        compute: Compute,
    ) -> Self:
        """Learn from perturbed cells and their controls; neither model nor cells change.

        Parameters
        ----------
        model
            Any model.
        cells
            n cells of one AnnData.
        conditions
            Condition of every cell, (n,), without parts for controls; `None` for cells that are not learned from.
        naming
            How the screen is written down, so that later predictions read names alike.
        value
            What replaces the log expression of a perturbed gene, for models that can be shown it.
        fine_tune
            Train model and head as published, for models that have such a training.
        max_epochs
            Most epochs of that; the published number if `None`.
        seed
            Of everything random.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If a group has perturbed cells but no controls; with ``fine_tune=True``, if the model has no such training,
            or fewer than two perturbations are of genes that it knows.
        """
        controls = control_cells(cells, conditions)
        parts = {part for condition in conditions if condition is not None for part in condition.parts}
        positions = positions_of(model.genes, parts)
        if fine_tune:
            trainable = require(model, FineTunesPerturbations, caller="Responses.fit")
            require_genes(conditions, positions)
        responses = measure_responses(cells, conditions)
        reference = np.arange(controls.n_obs)
        if len(reference) > REFERENCE_CELLS:
            reference = np.random.default_rng(seed).choice(reference, REFERENCE_CELLS, replace=False)
        learned = LearnedResponses(
            genes=cells.own.alignment.names.astype(str),
            naming=naming,
            value=value,
            conditions=responses.conditions,
            reference=in_memory(controls.read(reference), measured=controls.measured, names=controls.names[reference]),
            seed=seed,
        )
        if fine_tune:
            how: dict[str, Any] = {"value": value, "max_epochs": max_epochs, "seed": seed, "compute": compute}
            tuned, head = trainable.fine_tune_perturbations(controls, *_targets(controls, responses, positions), **how)
            if len(cells.own.alignment.dropped):
                learned = learned.shrunken(responses, {}, {}, np.random.default_rng(seed))
                learned = replace(learned, measured={}, refined={})  # the network starts from controls as they are
            return cls(tuned, replace(learned, head=head))
        groups = {condition.group for condition in responses.conditions}
        states = _states(model, controls, compute) if len(groups) >= LEAST_GROUPS else {}
        shifts = gene_shifts(model, learned.reference, positions, value, compute)
        return cls(model, learned.shrunken(responses, shifts, states, np.random.default_rng(seed)))

    @property
    def fine_tuned(self) -> bool:
        """Whether the model itself predicts, as published."""
        return bool(self.learned.head)

    @property
    def replacement(self) -> str:
        """How a gene was perturbed for the model to see."""
        replaces = self.fine_tuned or can(self.model, ReplacesGenes)
        return f"log expression of {self.learned.value:g}" if replaces else "counts of 0"

    def predict(
        self,
        controls: Cells,
        perturbations: Sequence[str],
        *,
        group_of: Sequence[str],
        groups: Sequence[str] | None = None,
        compute: Compute,
    ) -> AnnData:
        """Predict mean profiles of control cells after perturbations.

        Parameters
        ----------
        controls
            n control cells of one AnnData, which has the genes that were learned in. Groups that were learned from
            lie where they did. What a new group is like is read from its cells among all others here: pass the
            controls of all groups, as for learning.
        perturbations
            Names, combinations joined as in learning. Every part was seen perturbed, or is a gene.
        group_of
            Group of every cell, (n,).
        groups
            Groups to predict for, all of ``group_of`` if `None`.
        compute
            Where and how precisely.

        Returns
        -------
        Conditions x genes: ``X`` and the layers ``control`` and ``change``, log1p of counts per 10,000, float32;
        ``obs`` with ``perturbation``, ``group``, ``n_perturbed`` and how many of them were never seen perturbed,
        ``n_unseen``, or are not known to the model, ``n_unknown``; ``var`` with what a gene was ``predicted_by``,
        ``"measured responses"`` or ``"network"``; ``uns`` with what was found in learning: ``gene_similarity`` and
        ``group_similarity``, 0 where they made nothing clearer, the ``level_dependence`` of changes and the number of
        conditions, ``n_conditions``.

        Raises
        ------
        ValueError
            If a part or a group is unknown, the control is to be predicted, or genes are missing.
        """
        learned = self.learned
        naming = learned.naming
        parts = members_of(perturbations, control=naming.control, sep=naming.sep, known=learned.parts)
        positions = positions_of(self.model.genes, {part for members in parts.values() for part in members})
        self._check(parts, positions, group_of, groups)
        columns = self._columns(controls)
        levels = self._levels(controls, group_of, columns)
        wanted = [*levels] if groups is None else groups
        conditions = [Condition(members, group) for group in wanted for members in parts.values()]
        control = np.array([levels[condition.group] for condition in conditions])
        target = controls.own.alignment.target[columns]
        kept = target >= 0
        controls = by_group(controls.only(target[kept]), group_of)
        change = np.zeros_like(control)
        if len(learned.coefficients):
            shifts = self._shifts(positions, compute)
            change = learned.change(conditions, control, shifts, self._states_of(wanted, controls, compute))
        if self.fine_tuned:
            change[:, kept] = self._tuned_changes(controls, conditions, positions, compute)[:, target[kept]]
        predicted_by = np.where(kept & self.fine_tuned, "network", "measured responses").astype(object)
        # Expression cannot fall below none.
        predicted = np.maximum(control + change, 0)
        return AnnData(
            predicted.astype(np.float32),
            obs=_described(parts, wanted, learned.parts, positions),
            var=pd.DataFrame({"predicted_by": predicted_by}, index=pd.Index(learned.genes.astype(object))),
            layers={"control": control.astype(np.float32), "change": (predicted - control).astype(np.float32)},
            uns={
                "gene_similarity": learned.prior.likeness,
                "group_similarity": learned.prior.reach,
                "level_dependence": learned.reversion,
                "n_conditions": len(learned.conditions),
            },
        )

    def _stored(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        return self.learned.arrays(), self.learned.values()

    @classmethod
    def _restored(cls, model: Any, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        return cls(model, LearnedResponses.of(arrays, values))

    # ---- parts of a prediction ---------------------------------------------------------------------------------

    def _check(
        self,
        parts: Mapping[str, tuple[str, ...]],
        positions: Mapping[str, int],
        group_of: Sequence[str],
        groups: Sequence[str] | None,
    ) -> None:
        """Refuse what cannot be predicted."""
        if alone := [name for name, members in parts.items() if not members]:
            msg = f"{alone[0]!r} is the control, which predictions start from. Leave it out of perturbations."
            raise ValueError(msg)
        require_known(
            {part for members in parts.values() for part in members},
            seen=None if self.fine_tuned else self.learned.parts,
            positions=positions,
        )
        if unknown := sorted(set(groups or ()) - set(group_of)):
            msg = (
                f"There are no control cells of {quoted(unknown)} to predict for. "
                f"Name groups that have some: {quoted(sorted(set(group_of)), 5)}."
            )
            raise ValueError(msg)

    def _columns(self, controls: Cells) -> NDArray[np.int64]:
        """Where the genes that were learned in are among those of a data set, (G,); of one name, in their order."""
        columns = _numbered(controls.own.alignment.names.astype(str)).get_indexer(_numbered(self.learned.genes))
        absent = self.learned.genes[columns < 0]
        if len(absent):
            msg = (
                f"adata lacks {len(absent):,} of the {len(columns):,} genes that perturbations were learned in: "
                f"{', '.join(absent[:5])}. Learn in the genes that both have: "
                "fitted = sf.tl.predict_perturbation(adata[:, genes].copy(), ..., return_fitted=True)."
            )
            raise ValueError(msg)
        return columns.astype(np.int64)

    def _levels(self, controls: Cells, group_of: Sequence[str], columns: NDArray[np.int64]) -> dict[str, Array]:
        """Mean profile of the controls of every group; less what learning found to be noise, if they are the same."""
        names, codes = np.unique(np.asarray(group_of, dtype=str), return_inverse=True)
        blocks = controls.own.own_blocks(np.arange(controls.n_obs))
        n_cells, sums, _ = profiles(
            ((rows, counts[:, columns]) for rows, counts in blocks), codes, len(names), len(columns)
        )
        levels = dict(zip(names.tolist(), sums / n_cells[:, None], strict=True))
        for group in levels.keys() & self.learned.measured.keys():
            if np.allclose(levels[group], self.learned.measured[group]):
                levels[group] = self.learned.refined[group]
        return levels

    def _shifts(self, positions: Mapping[str, int], compute: Compute) -> dict[str, Array]:
        """Shifts of the genes that were learned from, and of new ones where likeness counts."""
        shifts = self.learned.shifts
        new = {part: at for part, at in positions.items() if part not in shifts}
        if not self.learned.prior.likeness or not new:
            return shifts
        moved = gene_shifts(self.model, self.learned.reference, new, self.learned.value, compute)
        return shifts | {part: shift - self.learned.centre for part, shift in moved.items()}

    def _states_of(self, groups: Sequence[str], controls: Cells, compute: Compute) -> dict[str, Array]:
        """States of the groups that were learned from, and of new ones where likeness counts."""
        states = self.learned.states
        if not self.learned.prior.reach or set(groups) <= states.keys():
            return states
        places = _states(self.model, controls, compute)
        return {group: place / self.learned.distance for group, place in places.items()} | states

    def _tuned_changes(
        self, controls: Cells, conditions: Sequence[Condition], positions: Mapping[str, int], compute: Compute
    ) -> Array:
        """Changes that the fine-tuned model predicts over its genes from some controls of a group, (m, vocabulary)."""
        tuned = require(self.model, FineTunesPerturbations, caller="Responses.predict")
        rows = {context.name: context.rows for context in controls.contexts}
        changes = []
        # Conditions of one group stand together.
        for group in dict.fromkeys(condition.group for condition in conditions):
            drawn = np.random.default_rng(self.learned.seed).permutation(rows[group])[:MOST_CONTROLS]
            found = tuned.replaced_gene_changes(
                controls.take(np.sort(drawn)),
                self.learned.head,
                [[positions[part] for part in condition.parts] for condition in conditions if condition.group == group],
                self.learned.value,
                compute,
            )
            changes.append(found)
        return np.concatenate(changes)


def require_genes(conditions: Sequence[Condition | None], positions: Mapping[str, int]) -> None:
    """Refuse to train a model that knows fewer than two of the perturbed genes: it has nothing to replace."""
    perturbed = {condition.parts for condition in conditions if condition is not None and condition.parts}
    usable = [parts for parts in perturbed if set(parts) <= positions.keys()]
    if len(usable) < 2:
        msg = (
            f"fine_tune=True replaces genes of the model; {len(usable)} of the perturbations to learn from are such, "
            "and two are needed. The default learns from any: fine_tune=False."
        )
        raise ValueError(msg)


def _targets(
    controls: Cells, responses: MeasuredResponses, positions: Mapping[str, int]
) -> tuple[list[tuple[str, list[int]]], Array, NDArray[np.int64]]:
    """What a model is fine-tuned on: group and replaced genes of conditions, their profiles, and over which genes.

    Conditions of genes that the model does not know are left out; those without genes are the controls.
    """
    target = controls.own.alignment.target
    kept = np.flatnonzero(target >= 0)
    kept = kept[np.argsort(target[kept], kind="stable")]
    usable = [i for i, condition in enumerate(responses.conditions) if set(condition.parts) <= positions.keys()]
    perturbed = [responses.conditions[i] for i in usable]
    conditions = [(context.name, list[int]()) for context in controls.contexts]
    conditions += [(condition.group, [positions[part] for part in condition.parts]) for condition in perturbed]
    means = np.array([*(responses.controls[context.name] for context in controls.contexts), *responses.means[usable]])
    return conditions, means[:, kept], target[kept].astype(np.int64)


def _states(model: Embeds, controls: Cells, compute: Compute) -> dict[str, Array]:
    """Mean embedding of the controls of every group, all of them in one context."""
    latent = model.embed(controls.as_one_context("controls"), compute)
    return {context.name: latent[context.rows].mean(0, dtype=np.float64) for context in controls.contexts}


def _numbered(names: NDArray[np.str_]) -> pd.MultiIndex:
    """Names with the number of times that each came before."""
    column = pd.Series(names)
    return pd.MultiIndex.from_arrays([column, column.groupby(column).cumcount()])


def _described(
    parts: Mapping[str, tuple[str, ...]], groups: Sequence[str], seen: Container[str], known: Container[str]
) -> pd.DataFrame:
    """What was predicted: one row per group and perturbation, with how many of its parts were not seen, or known."""
    table = pd.DataFrame(
        [
            (name, group, len(members), *(sum(part not in those for part in members) for those in (seen, known)))
            for group in groups
            for name, members in parts.items()
        ],
        columns=["perturbation", "group", "n_perturbed", "n_unseen", "n_unknown"],
    )
    names = table["perturbation"] if len(groups) == 1 else table["perturbation"] + " | " + table["group"]
    return table.astype({"perturbation": "category", "group": "category"}).set_index(pd.Index(names.to_numpy()))
