"""Expression after perturbations that nobody has measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.modality import to_write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.data.perturbations import Naming, Screen
    from scfoundry.model import FoundationModel
    from scfoundry.model._capabilities import Embeds
    from scfoundry.tasks.perturbation.conditions import Condition
    from scfoundry.tasks.perturbation.responses import Responses

__all__ = ["predict_perturbation"]

CALLER = "sf.tl.predict_perturbation"
VALUE, SEP = -100.0, "+"


def predict_perturbation(
    adata: AnnData | MuData,
    *,
    perturbations: str | Sequence[str],
    perturbation_key: str | None = None,
    control: str | None = None,
    group_key: str | None = None,
    groups: str | Sequence[str] | None = None,
    model: str | Path | FoundationModel | Responses = "cellplm",
    fine_tune: bool = False,
    value: float = VALUE,
    sep: str | None = SEP,
    max_epochs: int | None = None,
    n_genes: int = 100,
    layer: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.PERTURBATION,
    device: str = "auto",
    precision: Precision = "auto",
    return_fitted: bool = False,
    copy: bool = False,
) -> AnnData | MuData | Responses | None:
    """Predict the mean expression after unseen perturbations, from perturbations that were measured.

    Genes, one or several at once: their effect is put together from what all measured perturbations change alike, what
    each gene changed elsewhere (alone or in another combination), and what genes change that move the model's cells in
    the same direction. Drugs and stimuli: their effect in one cell type or donor is learned from others, see
    ``groups``.

    Cells that got one of ``perturbations`` in one of ``groups`` are never learned from; all other perturbed cells are.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or log1p-normalised values where there are no counts; in memory, backed or dask.
        Of a `MuData`, one modality is read.
    perturbations
        What to predict: genes, combinations (``"KLF1+SET"``), or conditions of the column. A gene need not be measured,
        nor have cells; by whatever name, it is the gene that the column calls by its symbol or id.
    perturbation_key
        Column of ``obs`` with the perturbation of every cell. Cells without one (missing) are left out. A gene may have
        several names in it (symbol, Ensembl id, older name).
    control
        Name of unperturbed cells.
    group_key
        Column of ``obs`` with cell types, lines or donors. Every group is compared with its own controls.
    groups
        Groups to predict for, all if `None`. To learn the response of B cells from other cells: ``groups="B"``.
    model
        A model (``"cellplm"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model,
        which stays as it is. Or what an earlier call learned (``return_fitted``), or the folder where it was saved:
        nothing is learned then, only controls are read, and columns and control are those of that call if not given.
    fine_tune
        Train the network on the measured profiles, as published, instead of weighing their evidence; for models that
        have such a training. Slower, for genes of the model only, and clearly worse on the screen it was measured on.
    value
        What replaces the log expression of a perturbed gene before the model reads a control cell; -100 as published.
        A model that cannot be shown such a value reads cells without the counts of the gene.
    sep
        What joins the genes of a combination; names are taken whole if `None`.
    max_epochs
        Most epochs of fine-tuning, 100 if `None`; only with ``fine_tune=True``.
    n_genes
        Genes per condition in the table of differential expression.
    layer
        Layer with the values, ``X`` if `None`.
    modality
        Modality of a `MuData`.
    rng
        Seed or generator: of the control cells that the model reads, and of fine-tuning.
    key_added
        Name for the results.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision
        ``"float32"``, ``"bfloat16"`` for the matrix products, or ``"auto"``: bfloat16 on CUDA, float32 elsewhere.
    return_fitted
        Return what was learned, to predict more with it or to save it.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, the copy if ``copy=True``, or a `scfoundry.tasks.Responses` if ``return_fitted=True``. Sets
    ``adata.uns["perturbation"]`` (``key_added``) with:

    ``"profiles"``
        AnnData, conditions x genes, float32: predicted mean of log1p counts per 10,000 in ``X``; the same of the
        controls (less noise that all measured changes have in common) and the difference in the layers ``"control"``
        and ``"change"``; ``obs`` with ``perturbation``, ``group``, ``n_perturbed`` (genes or conditions in the
        perturbation), and ``n_unseen``, how many of these no cell that was learned from shows perturbed, in whatever
        group or combination; ``uns`` with what the screen itself says: ``gene_similarity``, how much of its effect a
        gene shares with genes that the model sees alike, ``group_similarity``, how far groups share a response, in
        usual distances of groups (0: neither is used), ``level_dependence``, the slope of a change on the level of the
        controls (0 to -1), and ``n_conditions`` that were learned from. Names are those of the perturbations, followed
        by that of the group where there are several.
    ``"differential_expression"``
        The ``n_genes`` genes per condition that change most, fewer where fewer change: ``perturbation``, ``group``,
        ``gene``, ``change``, ``control``, ``predicted``.
    ``"params"``, ``"provenance"``
        The arguments; weights with their checksum, licence, citation, versions, how each gene was matched, and how a
        gene was perturbed for the model to see (``"replacement"``).

    Raises
    ------
    ValueError
        If a column, the control, a group or a gene is unknown, or a number makes no sense; if nothing is left to learn
        from, or all cells are of one condition; if a group lacks controls; if the values are scaled, negative, NaN or
        neither counts nor log1p-normalised; if too few genes are known; if the model has no training for
        ``fine_tune=True``; if arguments of learning come with what was learned, or genes of it are missing; if
        ``adata`` is a view of data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    No change is predicted where nothing can be learned. What a prediction is made of, how good it is, and what was
    chosen on which data stands in the guide ("Perturbations nobody has measured").

    Of a gene that no cell shows perturbed, alone or in a combination, little can be said from a small screen: what all
    perturbations have in common. `sf.metrics.perturbation` scores predictions against controls of their own; the tables
    in ``benchmarks/results/predict_perturbation.md`` have the scores beside simple means, which are hard to beat.

    Examples
    --------
    >>> import scfoundry as sf
    >>> fitted = sf.tl.predict_perturbation(  # doctest: +SKIP
    ...     adata,
    ...     perturbations=["KLF1+SET", "FOXO4"],
    ...     perturbation_key="perturbation",
    ...     control="control",
    ...     return_fitted=True,
    ... )
    >>> adata.uns["perturbation"]["profiles"].to_df("change")  # doctest: +SKIP
    >>> sf.tl.predict_perturbation(adata, perturbations="KLF1", model=fitted)  # doctest: +SKIP

    The response of B cells to a stimulus, from that of other cells:

    >>> sf.tl.predict_perturbation(  # doctest: +SKIP
    ...     adata,
    ...     perturbations="stim",
    ...     perturbation_key="condition",
    ...     control="ctrl",
    ...     group_key="cell_type",
    ...     groups="B",
    ... )
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.perturbations import Screen
    from scfoundry.tasks.perturbation.responses import Responses
    from scfoundry.tl._opening import check_return, open_fitted, record, seed_of

    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    _check_numbers(value, n_genes, max_epochs, fine_tune=fine_tune)
    compute = Compute.resolve(device, precision)
    opened = open_fitted(model, Responses, caller=CALLER)
    known: Responses | None = opened if isinstance(opened, Responses) else None
    learning: dict[str, Any] = {"value": value, "fine_tune": fine_tune, "max_epochs": max_epochs}
    naming = _naming(known, perturbation_key, control, group_key, learning | {"sep": sep})
    names = _asked(perturbations, naming)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    screen = Screen.read(target, naming, perturbed=known is None)
    wanted = _groups(groups, naming, screen)
    loaded = opened if known is None else known.model
    conditions = [] if known is not None else _conditions(loaded, screen, names, naming, wanted, fine_tune=fine_tune)
    cells = Cells.of(target, loaded.genes, layer=layer, caller=CALLER)

    logger.info(
        f"{loaded.provenance['weights']} on {compute.device}: {len(names)} perturbations predicted "
        f"{_source(known, conditions)}; {cells.summary()}"
    )
    seed = int(np.random.default_rng(rng).integers(2**31))
    fitted = known or Responses.fit(loaded, cells, conditions, naming, **learning, seed=seed, compute=compute)
    controls = np.flatnonzero(screen.is_control)
    profiles = fitted.predict(
        cells.take(controls), names, group_of=screen.groups.iloc[controls].tolist(), groups=wanted, compute=compute
    )
    _warn_of_unseen(profiles)

    params = naming._asdict() | {
        "perturbations": names,
        "groups": wanted if naming.group_key is not None else None,
        "fine_tune": fitted.fine_tuned,
        "value": fitted.learned.value,
        "max_epochs": max_epochs,
        "n_genes": n_genes,
        "layer": layer,
        "rng": seed_of(rng) if known is None else None,
        "precision": precision,
    }
    target.uns[key_added] = {
        Keys.PROFILES: profiles,
        Keys.DIFFERENTIAL_EXPRESSION: _most_changed(profiles, n_genes),
    } | record(loaded, cells, params, replacement=fitted.replacement)
    if return_fitted:
        return fitted
    return adata if copy else None


def _naming(
    known: Responses | None,
    perturbation_key: str | None,
    control: str | None,
    group_key: str | None,
    learning: Mapping[str, Any],
) -> Naming:
    """How the data are written down; as in learning where nothing else is given."""
    from scfoundry.data.perturbations import Naming, require_separator

    require_separator(learning["sep"])
    if known is None:
        if perturbation_key is None or control is None:
            msg = (
                "Which cells are perturbed? Name the column of adata.obs that says so, and what it calls unperturbed "
                'cells: perturbation_key="guide", control="ctrl".'
            )
            raise ValueError(msg)
        return Naming(perturbation_key, control, group_key, learning["sep"])
    learned = known.learned
    usual: dict[str, tuple[Any, ...]] = {
        "value": (VALUE, learned.value),
        "sep": (SEP, learned.naming.sep),
        "fine_tune": (False,),
        "max_epochs": (None,),
    }
    if given := [name for name, passed in learning.items() if passed not in usual[name]]:
        msg = (
            f"{given[0]}={learning[given[0]]!r} is of learning, and the model has learned already: leave it out. To "
            f'learn anew, pass weights: model="cellplm", {given[0]}={learning[given[0]]!r}.'
        )
        raise ValueError(msg)
    keys = {"perturbation_key": perturbation_key, "control": control, "group_key": group_key}
    return learned.naming._replace(**{name: key for name, key in keys.items() if key is not None})


def _asked(perturbations: object, naming: Naming) -> list[str]:
    """Names to predict, each once."""
    from scfoundry.data.perturbations import components

    given = [perturbations] if isinstance(perturbations, str) else perturbations
    names = list(dict.fromkeys(given)) if isinstance(given, Iterable) else []
    example = 'perturbations=["KLF1", "KLF1+SET"].'
    if not names or not all(isinstance(name, str) for name in names):
        found = next((repr(name) for name in names if not isinstance(name, str)), repr(perturbations))
        msg = f"perturbations must name what to predict, as text; got {found}: {example}"
        raise ValueError(msg)
    if not all(components(name, control=naming.control, sep=naming.sep) for name in names):
        msg = f"perturbations must name what to predict, got the control {naming.control!r} among them: {example}"
        raise ValueError(msg)
    return names


def _check_numbers(value: object, n_genes: object, max_epochs: object, *, fine_tune: bool) -> None:
    """Refuse numbers that nothing can be computed with."""
    if not isinstance(value, int | float | np.number) or not np.isfinite(value):
        msg = (
            f"value must be a finite number, it stands in for log expression; got {value!r}. As published: value=-100."
        )
        raise ValueError(msg)
    if not isinstance(n_genes, int | np.integer) or n_genes < 1:
        msg = f"n_genes must be a whole number, at least 1 gene per condition; got {n_genes!r}: n_genes=100."
        raise ValueError(msg)
    if max_epochs is None:
        return
    if not fine_tune:
        msg = (
            f"max_epochs={max_epochs!r} is of the network's training: fine_tune=True. The default trains none: leave "
            "max_epochs out."
        )
        raise ValueError(msg)
    if not isinstance(max_epochs, int | np.integer) or max_epochs < 1:
        msg = (
            f"max_epochs must be a whole number, at least 1; got {max_epochs!r}. The published way of stopping: "
            "max_epochs=None."
        )
        raise ValueError(msg)


def _groups(groups: str | Sequence[str] | None, naming: Naming, screen: Screen) -> list[str]:
    """Groups to predict for."""
    present = sorted(screen.groups[screen.is_control].unique())
    if groups is None:
        return present
    if naming.group_key is None:
        msg = f'groups={groups!r} need the column that names them: group_key="cell_type".'
        raise ValueError(msg)
    wanted = list(dict.fromkeys([groups] if isinstance(groups, str) else groups))
    if lacking := [group for group in wanted if group not in present]:
        listed = ", ".join(map(repr, lacking))
        msg = (
            f"{listed} has no control cells in adata.obs[{naming.group_key!r}], which a prediction starts from; "
            f"groups with controls: {', '.join(map(repr, present))}."
        )
        raise ValueError(msg)
    return wanted


def _conditions(
    model: Embeds, screen: Screen, names: Sequence[str], naming: Naming, wanted: Sequence[str], *, fine_tune: bool
) -> list[Condition | None]:
    """Condition of every cell to learn from; `None` for cells to predict, and others that are not learned from."""
    from scfoundry.data.perturbations import components, members_of, positions_of, require_known
    from scfoundry.model._capabilities import FineTunesPerturbations, require
    from scfoundry.tasks.perturbation.conditions import Condition

    present = screen.labels.dropna().unique().tolist()
    how: dict[str, Any] = {"control": naming.control, "sep": naming.sep}
    spelled = {part for name in present for part in components(name, **how)}
    parts = members_of([*present, *names], **how, known=spelled)
    learnable = screen.to_learn_from(parts, {parts[name] for name in names}, wanted, caller=CALLER)
    conditions = [
        Condition(parts[label], group) if learned else None
        for label, group, learned in zip(screen.labels, screen.groups, learnable, strict=True)
    ]
    seen = {part for condition in set(conditions) if condition is not None for part in condition.parts}
    genes = {part for name in names for part in parts[name]}
    if fine_tune:
        require(model, FineTunesPerturbations, caller=CALLER)
    require_known(genes, seen=None if fine_tune else seen, positions=positions_of(model.genes, genes))
    return conditions


def _source(known: Responses | None, conditions: Sequence[Condition | None]) -> str:
    """What predictions are made from, for the log."""
    if known is not None:
        return f"from {len(known.learned.conditions)} learned before"
    learned = [condition for condition in conditions if condition is not None]
    n_others = len({condition.parts for condition in learned if condition.parts})
    return f"from {n_others} others in {len(learned):,} cells"


def _warn_of_unseen(profiles: AnnData) -> None:
    """Say which predictions rest on genes that no cell shows perturbed."""
    unseen = profiles.obs.loc[profiles.obs["n_unseen"] > 0, "perturbation"].unique().tolist()
    if unseen:
        logger.warning(
            "%s: %s with a gene that no cell shows perturbed (%s%s). Of such a gene little is known; see n_unseen in "
            "the obs of the profiles.",
            CALLER,
            f"{len(unseen)} perturbations" if len(unseen) > 1 else "1 perturbation",
            ", ".join(map(repr, unseen[:5])),
            ", ..." if len(unseen) > 5 else "",
        )


def _most_changed(profiles: AnnData, n_genes: int) -> pd.DataFrame:
    """The genes that change most, condition by condition; those that do not change are left out."""
    change, control = (profiles.layers[name] for name in ("change", "control"))
    top = np.argsort(-np.abs(change), axis=1, kind="stable")[:, :n_genes]
    table = pd.DataFrame(
        {
            "perturbation": np.repeat(profiles.obs["perturbation"].to_numpy(), top.shape[1]),
            "group": np.repeat(profiles.obs["group"].to_numpy(), top.shape[1]),
            "gene": profiles.var_names.to_numpy()[top].ravel(),
            "change": np.take_along_axis(change, top, 1).ravel(),
            "control": np.take_along_axis(control, top, 1).ravel(),
            "predicted": np.take_along_axis(profiles.X, top, 1).ravel(),
        }
    )
    return table[table["change"] != 0].reset_index(drop=True).rename(index=str)
