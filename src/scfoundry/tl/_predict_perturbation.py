"""Expression after perturbations that nobody has measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._said_once import said_once
from scfoundry._settings import logger
from scfoundry.data.modality import to_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel

__all__ = ["predict_perturbation"]

CALLER = "sf.tl.predict_perturbation"


@said_once()
def predict_perturbation(
    adata: AnnData | MuData,
    *,
    perturbation_key: str,
    control: str,
    perturbations: str | Sequence[str],
    group_key: str | None = None,
    groups: str | Sequence[str] | None = None,
    model: str | Path | FoundationModel = "cellplm",
    fine_tune: bool = False,
    value: float = -100.0,
    sep: str | None = "+",
    max_epochs: int | None = None,
    n_genes: int = 100,
    layer: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.PERTURBATION,
    device: str = "auto",
    precision: Precision = "auto",
    copy: bool = False,
) -> AnnData | MuData | None:
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
    perturbation_key
        Column of ``obs`` with the perturbation of every cell. Cells without one (missing) are left out. A gene may have
        several names in it (symbol, Ensembl id, older name).
    control
        Name of unperturbed cells.
    perturbations
        What to predict: genes, combinations (``"KLF1+SET"``), or conditions of the column. A gene need not be measured,
        nor have cells; by whatever name, it is the gene that the column calls by its symbol or id.
    group_key
        Column of ``obs`` with cell types, lines or donors. Every group is compared with its own controls.
    groups
        Groups to predict for, all if `None`. To learn the response of B cells from other cells: ``groups="B"``.
    model
        A model (``"cellplm"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model,
        which stays as it is.
    fine_tune
        Train the network on the measured profiles, as published, instead of weighing their evidence. Slower, for genes
        of the model only, and clearly worse on the screen it was measured on (Notes).
    value
        What replaces the log expression of a perturbed gene before the model reads a control cell; -100 as published.
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
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. Sets ``adata.uns["perturbation"]`` (``key_added``) with:

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
        The arguments; weights with their checksum, licence, citation, versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If a column, the control, a group or a gene is unknown, or a number makes no sense; if nothing is left to learn
        from, or all cells are of one condition; if a group lacks controls; if the values are scaled, negative, NaN or
        neither counts nor log1p-normalised; if too few genes are known; if the model predicts no perturbations; if
        ``adata`` is a view of data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    The default explains the measured changes by what all perturbations have in common, what a gene adds, what genes
    share whose replacement (``value``) moves the embedding of control cells alike, what groups have in common, and what
    groups share whose controls lie close in the embedding. How much of each, gene by gene, and how much is noise, is
    what makes the measured changes most probable; no change is predicted where nothing can be learned. See the guide
    ("Perturbations nobody has measured").

    With ``fine_tune=True`` the encoder and an expression head learn to turn control cells whose perturbed gene was
    replaced into the perturbed mean, by the mean squared error; a tenth of the perturbations says when to stop. On the
    screen of Norman et al. (18 genes, 15 pairs) it is worse than the default for every kind of pair: a few dozen means
    are little to train a network on.

    What needs a choice in the default (from how many groups on the likeness of groups and the slope of levels are
    estimated, how clearly likeness must explain the changes) was looked at on the benchmark's own data; see the guide.

    Of a gene that no cell shows perturbed, alone or in a combination, little can be said from a small screen: what all
    perturbations have in common. `sf.metrics.perturbation` scores predictions against controls of their own; the tables
    in ``benchmarks/results/perturbation.md`` have the scores beside simple means, which are hard to beat.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.predict_perturbation(  # doctest: +SKIP
    ...     adata, perturbation_key="perturbation", control="control", perturbations=["KLF1+SET", "FOXO4"]
    ... )
    >>> adata.uns["perturbation"]["profiles"].to_df("change")  # doctest: +SKIP

    The response of B cells to a stimulus, from that of other cells:

    >>> sf.tl.predict_perturbation(  # doctest: +SKIP
    ...     adata,
    ...     perturbation_key="condition",
    ...     control="ctrl",
    ...     perturbations="stim",
    ...     group_key="cell_type",
    ...     groups="B",
    ... )
    """
    from scfoundry._device import resolve_device
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.data.perturbations import (
        components,
        group_labels,
        members_of,
        perturbation_labels,
        positions_of,
        require_known,
    )
    from scfoundry.model._base import FoundationModel
    from scfoundry.model._load import load_pretrained
    from scfoundry.model._offers import predicts_perturbations

    names = _asked(perturbations, control, sep)
    _check_numbers(value, n_genes, max_epochs, fine_tune=fine_tune)
    adata, cells = to_write(adata, modality, copy=copy, caller=CALLER)
    labels = perturbation_labels(cells, perturbation_key, control=control, sep=sep)
    group_of = group_labels(cells, group_key)
    is_control = ((labels == control) & group_of.notna()).to_numpy()
    wanted = _groups(groups, group_key, group_of, is_control)
    present = labels.dropna().unique().tolist()
    spelled = {part for name in present for part in components(name, control=control, sep=sep)}
    parts = members_of([*present, *names], control=control, sep=sep, known=spelled)
    asked = {name: parts[name] for name in names}
    learned = _learned_from(labels.map(parts), group_of, is_control, set(asked.values()), wanted)
    seen = {part for name in labels[learned & ~is_control].unique() for part in parts[name]}
    torch_device = resolve_device(device)
    loaded = model if isinstance(model, FoundationModel) else load_pretrained(model)
    learner = predicts_perturbations(loaded, caller=CALLER)
    reader = CountsReader(cells, loaded.genes, layer=layer, caller=CALLER)
    genes = {part for members in asked.values() for part in members}
    require_known(genes, seen=None if fine_tune else seen, positions=positions_of(loaded.genes, genes))

    logger.info(
        f"{loaded.provenance['weights']} on {torch_device}: {len(asked)} perturbations predicted from "
        f"{labels[learned & ~is_control].nunique()} others in {learned.sum():,} cells, {reader.report.state}; "
        f"{reader.alignment.summary()}"
    )
    how: dict[str, Any] = {"group_key": group_key, "layer": layer, "device": device, "precision": precision}
    fitted = learner.fit_perturbations(
        cells[learned],
        perturbation_key=perturbation_key,
        control=control,
        sep=sep,
        value=value,
        fine_tune=fine_tune,
        max_epochs=max_epochs,
        seed=int(np.random.default_rng(rng).integers(2**31)),
        **how,
    )
    profiles = fitted.predict_perturbations(cells[is_control], list(asked), groups=wanted, **how)
    _warn_of_unseen(profiles)

    params = {
        "perturbation_key": perturbation_key,
        "control": control,
        "perturbations": list(asked),
        "group_key": group_key,
        "groups": wanted if group_key is not None else None,
        "fine_tune": fine_tune,
        "value": value,
        "sep": sep,
        "max_epochs": max_epochs,
        "n_genes": n_genes,
        "layer": layer,
        "rng": rng if isinstance(rng, int | np.integer) else None,
        "precision": precision,
    }
    cells.uns[key_added] = {
        Keys.PROFILES: profiles,
        Keys.DIFFERENTIAL_EXPRESSION: _most_changed(profiles, n_genes),
        Keys.PARAMS: {name: given for name, given in params.items() if given is not None},
        Keys.PROVENANCE: loaded.provenance | {"values": str(reader.report.state), "genes": reader.alignment.report()},
    }
    return adata if copy else None


def _asked(perturbations: object, control: str, sep: str | None) -> list[str]:
    """Names to predict, each once."""
    from scfoundry.data.perturbations import components, require_separator

    require_separator(sep)
    given = [perturbations] if isinstance(perturbations, str) else perturbations
    names = list(dict.fromkeys(given)) if isinstance(given, Iterable) else []
    example = 'perturbations=["KLF1", "KLF1+SET"].'
    if not names or not all(isinstance(name, str) for name in names):
        found = next((repr(name) for name in names if not isinstance(name, str)), repr(perturbations))
        msg = f"perturbations must name what to predict, as text; got {found}: {example}"
        raise ValueError(msg)
    if not all(components(name, control=control, sep=sep) for name in names):
        msg = f"perturbations must name what to predict, got the control {control!r} among them: {example}"
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


def _groups(
    groups: str | Sequence[str] | None, key: str | None, group_of: pd.Series, is_control: NDArray[np.bool_]
) -> list[str]:
    """Groups to predict for."""
    there = sorted(group_of[is_control].unique())
    if groups is None:
        return there
    if key is None:
        msg = f'groups={groups!r} need the column that names them: group_key="cell_type".'
        raise ValueError(msg)
    wanted = list(dict.fromkeys([groups] if isinstance(groups, str) else groups))
    if lacking := [group for group in wanted if group not in there]:
        listed = ", ".join(map(repr, lacking))
        msg = (
            f"{listed} has no control cells in adata.obs[{key!r}], which a prediction starts from; "
            f"groups with controls: {', '.join(map(repr, there))}."
        )
        raise ValueError(msg)
    return wanted


def _learned_from(
    parts: pd.Series,
    group_of: pd.Series,
    is_control: NDArray[np.bool_],
    hidden: set[tuple[str, ...]],
    wanted: Sequence[str],
) -> NDArray[np.bool_]:
    """Cells to learn from: all controls, and what is not to be predicted."""
    there = (parts.notna() & group_of.notna()).to_numpy()
    compared = group_of.isin(group_of[is_control].unique()).to_numpy()
    if n_alone := int((there & ~compared).sum()):
        logger.warning(
            "%s: %d perturbed cells are left out, as their group (%s) has no controls.",
            CALLER,
            n_alone,
            ", ".join(map(repr, sorted(group_of[there & ~compared].unique()))),
        )
    to_predict = parts.isin(hidden).to_numpy() & group_of.isin(wanted).to_numpy() & ~is_control
    learned = there & compared & ~to_predict
    if not (learned & ~is_control).any():
        msg = (
            "Nothing is left to learn from: all perturbed cells are to be predicted. Ask for fewer perturbations, or "
            'for some groups only, so that others teach: group_key="cell_type", groups=["B"].'
        )
        raise ValueError(msg)
    return learned


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
