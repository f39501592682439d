"""How a CellPLM learns what perturbations change, and predicts the change of those it has not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scfoundry._device import resolve_device
from scfoundry.data.matrix.contexts import Context
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.data.perturbations import group_labels, members_of, positions_of, require_known
from scfoundry.model.cellplm._fine_tune_perturbation import MAX_EPOCHS, predicted_changes, train_on_responses
from scfoundry.model.cellplm._replaced_genes import shifts_of
from scfoundry.tasks.perturbation.conditions import (
    LEAST_GROUPS,
    Condition,
    choose_prior,
    kernels,
    usual_distance,
)
from scfoundry.tasks.perturbation.learned import LearnedResponses
from scfoundry.tasks.perturbation.responses import measure_responses, profiles
from scfoundry.tasks.perturbation.screen import (
    conditions_of,
    control_rows,
    described,
    reference_cells,
)
from scfoundry.tasks.perturbation.shrinkage import shrink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model.cellplm._model import CellPLM
    from scfoundry.tasks.perturbation.responses import Responses

__all__ = ["LearnsPerturbations"]

RESPONSES_FILE = "perturbation.npz"


class LearnsPerturbations:
    """The part of `CellPLM` that `sf.tl.predict_perturbation` uses."""

    _responses: LearnedResponses | None = None

    def fit_perturbations(
        self,
        adata: AnnData,
        *,
        perturbation_key: str,
        control: str,
        group_key: str | None = None,
        sep: str | None = "+",
        value: float = -100.0,
        fine_tune: bool = False,
        max_epochs: int | None = None,
        layer: str | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Self:
        """Learn from perturbed cells and their controls, in a copy of this model.

        By default the encoder stays as it is. The change that a condition makes is what all perturbations have in
        common, what each of its genes adds, and what these share with genes that move the model's cells alike when
        their value is replaced; in other groups of cells, what all groups share, and like groups by the model's
        embeddings of their controls. How much of each there is, gene by gene, and how far a change is shrunken towards
        none, is what makes the measured changes the most probable (a Gaussian process with empirical Bayes weights).

        With ``fine_tune=True`` it is the published scheme: encoder and an expression head are trained to turn control
        cells whose perturbed gene was replaced into the perturbed profile.

        Parameters
        ----------
        adata
            Perturbed cells to learn from, and controls; it is only read.
        perturbation_key
            Column of ``obs`` with the perturbation of every cell; cells without one are left out.
        control
            Name of unperturbed cells.
        group_key
            Column of ``obs`` with cell types, lines or donors, each with controls of its own; one group if `None`.
        sep
            What joins the genes of a combination; names are taken whole if `None`.
        value
            What replaces the log expression of a perturbed gene.
        fine_tune
            Train the network.
        max_epochs
            Most epochs of that, 100 if `None`.
        layer
            Layer with the counts, ``X`` if `None`.
        seed
            Of everything random.
        device, precision
            As in `get_latent_representation`.

        Returns
        -------
        The copy, whose `predict_perturbations` predicts; `save_pretrained` keeps what it learned.

        Raises
        ------
        ValueError
            If a column or the control is missing, a group has perturbed cells but no controls, or ``fine_tune=True``
            has fewer than two perturbations of genes that the model knows.
        """
        model = cast("CellPLM", self).copy(**({"expression_head": True} if fine_tune else {}))
        how: dict[str, Any] = {"device": resolve_device(device), "precision": precision}
        reader = CountsReader(adata, model.genes, layer=layer, caller="CellPLM.fit_perturbations")
        conditions = conditions_of(adata, perturbation_key, control, group_key, sep)
        controls = control_rows(adata, conditions)
        responses = measure_responses(adata, conditions, layer=layer, state=reader.report.state)
        positions = positions_of(model.genes, {part for c in responses.conditions for part in c.parts})
        reference = reference_cells(reader, controls, model.config.library_size, np.random.default_rng(seed))
        learned = LearnedResponses(
            genes=adata.var_names.to_numpy().astype(str),
            control=control,
            sep=sep,
            value=value,
            fine_tuned=fine_tune,
            conditions=responses.conditions,
            reference=reference,
            seed=seed,
        )
        if fine_tune:
            require_genes(responses.conditions, positions)
            epochs = MAX_EPOCHS if max_epochs is None else max_epochs
            train_on_responses(
                model, reader, controls, responses, positions, value=value, max_epochs=epochs, seed=seed, **how
            )
        else:
            states = {}
            if len({condition.group for condition in responses.conditions}) >= LEAST_GROUPS:
                states = _states(model, reader, controls, how)
            shifts = shifts_of(model.module, reference, positions, value, **how)
            learned = _shrunken(learned, responses, shifts, states, np.random.default_rng(seed))
        model._responses = learned
        return cast("Self", model)

    def predict_perturbations(
        self,
        adata: AnnData,
        perturbations: Sequence[str],
        *,
        group_key: str | None = None,
        groups: Sequence[str] | None = None,
        layer: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> AnnData:
        """Predict mean profiles of control cells after perturbations.

        Parameters
        ----------
        adata
            Control cells, with the genes that `fit_perturbations` learned from; it is only read. Groups that it had
            controls of lie where they did. What a new group is like is read from its cells among all others here: pass
            the controls of all groups, as for learning.
        perturbations
            Names, combinations joined as in training. Every part was seen perturbed, or is a gene of the model.
        group_key
            Column of ``obs`` with the group of every cell; one group if `None`.
        groups
            Groups to predict for, all of ``adata`` if `None`.
        layer
            Layer with the counts, ``X`` if `None`.
        device, precision
            As in `get_latent_representation`.

        Returns
        -------
        Conditions x genes: ``X`` and the layers ``control`` and ``change``, log1p of counts per 10,000, float32;
        ``obs`` with ``perturbation``, ``group``, ``n_perturbed`` and how many of them were never seen perturbed,
        ``n_unseen``; ``uns`` with what was believed in learning: ``gene_similarity`` and ``group_similarity``, 0 where
        it was not, the ``level_dependence`` of changes and the number of conditions, ``n_conditions``.

        Raises
        ------
        ValueError
            If nothing was learned yet, a part or a group is unknown, the control is to be predicted, or genes are
            missing.
        """
        model, learned = cast("CellPLM", self), self._learned_or_raise()
        how: dict[str, Any] = {"device": resolve_device(device), "precision": precision}
        parts = members_of(perturbations, control=learned.control, sep=learned.sep, known=learned.parts)
        positions = positions_of(model.genes, {part for members in parts.values() for part in members})
        if alone := [name for name, members in parts.items() if not members]:
            msg = f"{alone[0]!r} is the control, which predictions start from. Leave it out of perturbations."
            raise ValueError(msg)
        require_known(
            {part for members in parts.values() for part in members},
            seen=None if learned.fine_tuned else learned.parts,
            positions=positions,
        )
        absent = np.setdiff1d(learned.genes, adata.var_names.to_numpy().astype(str))
        if len(absent):
            msg = (
                f"adata lacks {len(absent):,} of the {len(learned.genes):,} genes that perturbations were learned in: "
                f"{', '.join(absent[:5])}. Learn in the genes that both have: fit_perturbations(adata[:, genes], ...)."
            )
            raise ValueError(msg)
        # A view of a view cannot be read from a file.
        same_genes = np.array_equal(adata.var_names.to_numpy().astype(str), learned.genes)
        cells = adata if same_genes else adata[:, learned.genes]
        reader = CountsReader(cells, model.genes, layer=layer, caller="CellPLM.predict_perturbations")
        labels = group_labels(cells, group_key)
        present = sorted(labels.dropna().unique())
        wanted = present if groups is None else list(groups)
        if unknown := sorted(set(wanted) - set(present)):
            msg = f"adata has no cells of {', '.join(map(repr, unknown))} in obs[{group_key!r}] to predict for."
            raise ValueError(msg)

        codes = pd.Categorical(labels, present).codes.astype(np.int64)
        by_name = np.argsort(cells.obs_names.to_numpy().astype(str), kind="stable")
        rows = {group: by_name[codes[by_name] == i] for i, group in enumerate(present)}
        n_cells, sums, _ = profiles(cells, codes, len(present), layer=layer, state=reader.report.state)
        levels = dict(zip(present, sums / n_cells[:, None], strict=True))
        conditions = [Condition(members, group) for group in wanted for members in parts.values()]
        for group in levels.keys() & learned.measured.keys():
            if np.allclose(levels[group], learned.measured[group]):
                levels[group] = learned.refined[group]
        control = np.array([levels[condition.group] for condition in conditions])
        if learned.fine_tuned:
            change = np.zeros_like(control)
            change[:, reader.alignment.kept] = predicted_changes(
                model, reader, rows, conditions, positions, learned.value, seed=learned.seed, **how
            )
        else:
            new = {part: at for part, at in positions.items() if part not in learned.shifts}
            shifts = dict(learned.shifts)
            if learned.prior.likeness and new:
                moved = shifts_of(model.module, learned.reference, new, learned.value, **how)
                shifts |= {part: shift - learned.centre for part, shift in moved.items()}
            states = learned.states
            if learned.prior.reach and not set(wanted) <= states.keys():
                places = _states(model, reader, rows, how)
                states = {group: place / learned.distance for group, place in places.items()} | states
            # Of what nobody has seen perturbed nothing is known, not even that it forgets levels.
            seen = np.array([bool(learned.parts.intersection(condition.parts)) for condition in conditions])
            change = learned.reversion * (control - learned.level) * seen[:, None]
            for kernel, coefficients in zip(
                kernels(conditions, learned.conditions, learned.prior, shifts, states),
                learned.coefficients,
                strict=True,
            ):
                change += kernel @ coefficients
        # Expression cannot fall below none.
        predicted = np.maximum(control + change, 0)
        return AnnData(
            predicted.astype(np.float32),
            obs=described(parts, wanted, learned.parts),
            var=pd.DataFrame(index=pd.Index(learned.genes.astype(object))),
            layers={"control": control.astype(np.float32), "change": (predicted - control).astype(np.float32)},
            uns={
                "gene_similarity": learned.prior.likeness,
                "group_similarity": learned.prior.reach,
                "level_dependence": learned.reversion,
                "n_conditions": len(learned.conditions),
            },
        )

    def _learned_or_raise(self) -> LearnedResponses:
        if self._responses is None:
            msg = (
                "This model has learned no perturbations yet: "
                "fitted = model.fit_perturbations(adata, perturbation_key=..., control=...)."
            )
            raise ValueError(msg)
        return self._responses

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """Write the model as `FoundationModel.save_pretrained` does, and what it learned of perturbations beside it."""
        super().save_pretrained(folder, **kwargs)  # type: ignore[misc]
        path = Path(folder) / RESPONSES_FILE
        if self._responses is None:
            path.unlink(missing_ok=True)
        else:
            self._responses.write(path)

    @classmethod
    def _read_folder(cls, folder: Path, adata: AnnData | None, config: dict[str, Any]) -> Self:
        model = super()._read_folder(folder, adata, config)  # type: ignore[misc]
        if (folder / RESPONSES_FILE).exists():
            model._responses = LearnedResponses.read(folder / RESPONSES_FILE)
        return model


def require_genes(conditions: Sequence[Condition], positions: Mapping[str, int]) -> None:
    """Refuse to train the network where it has nothing to replace.

    Raises
    ------
    ValueError
        If fewer than two of the perturbations are genes of the model.
    """
    usable = {condition.parts for condition in conditions if set(condition.parts) <= positions.keys()}
    if len(usable) < 2:
        msg = (
            f"fine_tune=True replaces genes of the model; {len(usable)} of the perturbations to learn from are such, "
            "and two are needed. The default learns from any: fine_tune=False."
        )
        raise ValueError(msg)


def _shrunken(
    learned: LearnedResponses,
    responses: Responses,
    shifts: dict[str, NDArray[np.float64]],
    states: dict[str, NDArray[np.float64]],
    rng: np.random.Generator,
) -> LearnedResponses:
    """Complete what was learned by the coefficients under the most probable prior."""
    reversion = responses.reversion()
    controls = np.array([responses.controls[condition.group] for condition in responses.conditions])
    level = np.mean([responses.controls[group] for group in sorted({c.group for c in responses.conditions})], axis=0)
    centre = np.mean([shifts[part] for part in sorted(shifts)], axis=0) if shifts else learned.centre
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
        here = [condition.group == group for condition in responses.conditions]
        # A change is measured from noisy controls, so what all changes of a group share is in part their noise.
        shared = (1 + reversion) * found.residuals[here].sum(0) * responses.spread / responses.n_controls[group]
        refined[group] = np.maximum(profile + shared, 0)
    return replace(
        learned,
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


def _states(
    model: CellPLM, reader: CountsReader, rows: Mapping[str, NDArray[np.int64]], how: dict[str, Any]
) -> dict[str, NDArray[np.float64]]:
    """Mean embedding of the controls of every group, all of them in one context."""
    everything = np.sort(np.concatenate(list(rows.values())))
    latent = model._embed(reader, [Context("controls", everything)], {}, batch_size=None, **how)
    return {group: latent[here].mean(0, dtype=np.float64) for group, here in rows.items()}
