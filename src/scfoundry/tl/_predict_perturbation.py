"""Expression after perturbations that nobody has measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import (
    announce,
    check_return,
    new_seed,
    open_fitted,
    record,
    write_results,
)

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


@checks_arguments
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
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | Responses | None:
    """Predict the mean expression after unseen perturbations, from perturbations that were measured.

    The effect of genes is put together from what all measured perturbations change alike, what each gene changed
    elsewhere (alone or in another combination), and what genes change that move the model's cells in the same
    direction; that of drugs and stimuli in some ``groups`` (cell types, donors) from that in others. Cells that got one
    of ``perturbations`` in one of ``groups`` are never learned from; all other perturbed cells are.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
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
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model. Or a
        `sf.tasks.Responses`, or its folder, which learns no more. Only controls are read then, and columns and control
        are those of learning if not given.
    fine_tune
        Train the network on the measured profiles, as published, instead of weighing their evidence; for models that
        have such a training. Slower, for perturbed genes of the model only, and clearly worse on the screen it was
        measured on. How genes respond that it does not know is told by measured responses all the same.
    value
        What replaces the log expression of a perturbed gene before the model reads a control cell; -100 as published.
        A model that cannot be shown such a value reads cells without the counts of the gene.
    sep
        What joins the genes of a combination; names are taken whole if `None`.
    max_epochs
        Most epochs of fine-tuning, 100 if `None`; only with ``fine_tune=True``.
    n_genes
        Genes per condition in the table of differential expression.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    rng
        Seed or generator.
    device, precision
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), and how precisely (``"float32"``,
        ``"bfloat16"`` for matrix products; ``"auto"``: bfloat16 on CUDA; ``"fastest"``: what a short measurement finds
        faster here).
    copy, return_fitted
        Return a changed copy, in memory, instead of changing ``adata``; or what was learned, to save or use again.

    Returns
    -------
    `None`, the copy if ``copy=True``, or a `scfoundry.tasks.Responses` if ``return_fitted=True``. Sets
    ``adata.uns["perturbation"]`` (``key_added``) with:

    ``"profiles"``
        AnnData, conditions x genes, float32, named by perturbation and, where there are several, group: predicted mean
        of log1p counts per 10,000 in ``X``; that of the controls (less noise that all measured changes have in common)
        and the difference in the layers ``"control"`` and ``"change"``; ``obs`` with ``perturbation``, ``group``,
        ``n_perturbed`` (genes or conditions in it), ``n_unseen``, those that no cell learned from shows perturbed in
        whatever group or combination, and ``n_unknown``, those that the model does not know, so that likeness of genes
        plays no part; ``var["predicted_by"]``, ``"measured responses"``, or ``"network"`` of genes that a fine-tuned
        one knows; ``uns`` with what the screen itself says: ``gene_similarity``, how much of its effect a gene shares
        with genes that the model sees alike, ``group_similarity``, how far groups share a response, in usual distances
        of groups (0: neither is used), ``level_dependence``, the slope of a change on the level of the controls (0 to
        -1), and ``n_conditions`` that were learned from.
    ``"differential_expression"``
        The ``n_genes`` genes per condition that change most, fewer where fewer change: ``perturbation``, ``group``,
        ``gene``, ``change``, ``control``, ``predicted``.
    ``"params"``, ``"provenance"``
        The arguments; weights with their checksum, licence, citation, versions, how each gene was matched, and how a
        gene was perturbed for the model to see (``"replacement"``).

    Raises
    ------
    ValueError
        If a column, the control, a group or a gene is unknown, or an argument is out of range or of no effect; nothing
        is left to learn from, or all cells are of one condition; a group lacks controls; the values are scaled,
        negative, NaN or neither counts nor log1p-normalised; too few genes are known, or genes of what was learned are
        missing; the model has no training for ``fine_tune=True``; or ``adata`` is a view of data on disk. Nothing has
        been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    No change is predicted where nothing can be learned. Of a gene that no cell shows perturbed, alone or in a
    combination, little can be said from a small screen: what all perturbations have in common. The guide
    ("Perturbations nobody has measured") says what a prediction is made of and how good it is, and
    `sf.metrics.perturbation` scores predictions against controls of their own;
    ``benchmarks/results/predict_perturbation.md`` has the scores next to simple means, which are hard to beat.

    Examples
    --------
    >>> import scfoundry as sf
    >>> keys = {"perturbation_key": "guide", "control": "ctrl"}
    >>> fitted = sf.tl.predict_perturbation(  # doctest: +SKIP
    ...     adata, perturbations=["KLF1+SET", "FOXO4"], **keys, return_fitted=True
    ... )
    >>> adata.uns["perturbation"]["profiles"].to_df("change")  # doctest: +SKIP
    >>> sf.tl.predict_perturbation(adata, perturbations="KLF1", model=fitted)  # doctest: +SKIP

    The response of B cells to a stimulus, from that of other cells:

    >>> keys = {"perturbation_key": "condition", "control": "ctrl", "group_key": "cell_type"}
    >>> sf.tl.predict_perturbation(adata, perturbations="stim", groups="B", **keys)  # doctest: +SKIP
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.perturbations import Screen
    from scfoundry.tasks.perturbation.responses import Responses

    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    if max_epochs is not None and not fine_tune:
        msg = f"max_epochs={max_epochs} is of fine-tuning: fine_tune=True. The default trains nothing: leave it out."
        raise ValueError(msg)
    compute = Compute.resolve(device, precision)
    fitted, loaded = open_fitted(model, Responses, caller=CALLER)
    learning: dict[str, Any] = {"value": value, "fine_tune": fine_tune, "max_epochs": max_epochs}
    keys = {"perturbation_key": perturbation_key, "control": control, "group_key": group_key}
    naming = _naming(fitted, keys, learning | {"sep": sep})
    names = _asked(perturbations, naming)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    screen = Screen.read(target, naming, perturbed=fitted is None)
    wanted = _groups(groups, naming, screen)
    conditions = [] if fitted else _conditions(loaded, screen, names, naming, wanted, fine_tune=fine_tune)
    cells = Cells.of(target, loaded.genes, layer=layer, caller=CALLER)

    source = f"{len(fitted.learned.conditions)} learned before" if fitted else _source(conditions)
    announce(loaded, compute, cells, what=f"{len(names)} perturbations predicted from {source}")
    seed = new_seed(rng)
    responses = fitted or Responses.fit(loaded, cells, conditions, naming, **learning, seed=seed, compute=compute)
    controls = np.flatnonzero(screen.is_control)
    of_controls = screen.groups.iloc[controls].tolist()
    profiles = responses.predict(cells.take(controls), names, group_of=of_controls, groups=wanted, compute=compute)
    _warn_of_unseen(profiles)

    params = naming._asdict() | {"perturbations": names, "groups": wanted if naming.group_key is not None else None}
    params |= {"fine_tune": responses.fine_tuned, "value": responses.learned.value, "max_epochs": max_epochs}
    params |= {"n_genes": n_genes, "layer": layer, "rng": None if fitted else rng, "precision": precision}
    results = {Keys.PROFILES: profiles, Keys.DIFFERENTIAL_EXPRESSION: _most_changed(profiles, n_genes)}
    origin = record(loaded, cells, params, replacement=responses.replacement) | results
    write_results(target, {f"uns/{key_added}": origin}, units=Units.LOG1P, caller=CALLER)
    return responses if return_fitted else adata if copy else None


def _naming(fitted: Responses | None, keys: Mapping[str, str | None], learning: Mapping[str, Any]) -> Naming:
    """How the data are written down; as in learning where nothing else is given."""
    from scfoundry.data.perturbations import Naming, require_separator

    require_separator(learning["sep"])
    given = {name: key for name, key in keys.items() if key is not None}
    if fitted is None:
        if not {"perturbation_key", "control"} <= given.keys():
            msg = (
                "Which cells are perturbed? Name the column of adata.obs that says so, and what it calls unperturbed "
                'cells: perturbation_key="guide", control="ctrl".'
            )
            raise ValueError(msg)
        return Naming(**given, sep=learning["sep"])
    learned = fitted.learned
    usual: dict[str, tuple[Any, ...]] = {
        "value": (VALUE, learned.value),
        "sep": (SEP, learned.naming.sep),
        "fine_tune": (False,),
        "max_epochs": (None,),
    }
    if changed := [f"{name}={passed!r}" for name, passed in learning.items() if passed not in usual[name]]:
        msg = (
            f"{changed[0]} is of learning, and the model has learned already: leave it out. To learn anew, pass "
            f'weights: model="cellplm", {changed[0]}.'
        )
        raise ValueError(msg)
    return learned.naming._replace(**given)


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
        msg = (
            f"{quoted(lacking)} has no control cells in adata.obs[{naming.group_key!r}], which a prediction starts "
            f"from; groups with controls: {quoted(present)}."
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


def _source(conditions: Sequence[Condition | None]) -> str:
    """What is learned from, for the log."""
    learned = [condition for condition in conditions if condition is not None]
    n_others = len({condition.parts for condition in learned if condition.parts})
    return f"{n_others} others in {len(learned):,} cells"


def _warn_of_unseen(profiles: AnnData) -> None:
    """Say which predictions rest on genes that no cell shows perturbed."""
    unseen = profiles.obs.loc[profiles.obs["n_unseen"] > 0, "perturbation"].unique().tolist()
    if unseen:
        logger.warning(
            "%s: %s with a gene that no cell shows perturbed (%s). Of such a gene little is known; see n_unseen in "
            "the obs of the profiles.",
            CALLER,
            f"{len(unseen)} perturbations" if len(unseen) > 1 else "1 perturbation",
            quoted(unseen, 5),
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
