"""Cell types learned from a labelled reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.labels import NO_LABEL
from scfoundry.data.modality import modality_of, to_write
from scfoundry.tl._label_slots import refuse_shared_columns, write_labels
from scfoundry.tl._labels import classes_of, with_prompts
from scfoundry.tl._opening import check_return, open_fitted, quoted, record, seed_of
from scfoundry.tl._query_and_reference import check_training, reference_given, shared_genes

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Compute, Precision
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model import FoundationModel
    from scfoundry.tasks.annotation.annotator import Annotator, Train

__all__ = ["annotate"]

CALLER = "sf.tl.annotate"


def annotate(
    adata: AnnData | MuData,
    reference: AnnData | MuData | None = None,
    *,
    labels_key: str | None = None,
    model: str | Path | FoundationModel | Annotator = "cellnamer",
    n_shots: int | None = None,
    train: Train | None = None,
    max_epochs: int | None = None,
    transductive: bool = True,
    layer: str | None = None,
    reference_layer: str | None = None,
    batch_key: str | None = None,
    reference_batch_key: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.ANNOTATION,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | Annotator | None:
    """Name the type of every cell, as learned from labelled cells of a reference.

    Any model that embeds cells will do. One that reads texts (``"cellnamer"``) begins with what the texts of the labels
    say, so that a few labelled cells are enough; of any other (``"cellplm"``) single genes have a say beside the
    embedding, which helps over technologies. Genes of both data sets are found by name; they need not measure the same
    ones. A loaded model that you pass, and the reference, stay as they are.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or log1p-normalised values where there are no counts; in memory, backed or dask.
        Of a `MuData`, one modality is annotated.
    reference
        Labelled cells, in the same forms; not with a fitted ``model``.
    labels_key
        Column of the reference's ``obs`` with the labels. Cells without one are left out: missing, empty, or a word
        for it (``"unknown"``, ``"unassigned"``, ``"nan"``, ``"none"``, ``"na"``, ``"n/a"``, in upper or lower case).
    model
        A model (``"cellnamer"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded
        model; or a `sf.tasks.Annotator`, or the folder of one, which names cells as it has learned before.
    n_shots
        Learn from this many cells per label, drawn at random; from all if `None`.
    train
        A ``"head"`` on the weights as they are, or ``"all"`` of them in a copy: as the model's authors published, or
        its encoder until held-out cells of the reference are named no better. ``"all"`` if `None` for models with a
        published way (LangCell's transformer), else a ``"head"``.
    max_epochs
        Passes over the cells to learn from, for ``train="all"``; chosen by the model if `None`. A head is fitted until
        it is best.
    transductive
        Whether the cells of ``adata``, without labels, play a part while the labels are learned: in the contexts of the
        reference, for models whose unit is a group of cells, and by showing along which axes cells differ.
    layer
        Layer with the values, ``X`` if `None`.
    reference_layer
        The same of the reference.
    batch_key
        Column of ``obs`` that names the sample of a cell, for models whose unit is a group of cells. Those of a sample
        are seen together; all cells if `None`.
    reference_batch_key
        The same of the reference. Samples of one name in both are one.
    modality
        Modality of a `MuData`.
    rng
        Seed or generator, for the cells drawn and for training.
    key_added
        Name for the results.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision
        ``"float32"``, ``"bfloat16"`` for the matrix products, or ``"auto"``: bfloat16 on CUDA, float32 elsewhere.
    batch_size
        Cells on the device at a time when annotating; chosen for the device if `None`.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.
    return_fitted
        Return what was learned, to save it or to annotate other cells with it.

    Returns
    -------
    `None`, the copy if ``copy=True``, or the `sf.tasks.Annotator` if ``return_fitted=True``. With ``key_added`` for
    ``annotation``, sets:

    ``adata.obs["annotation"]``
        Label of every cell, categorical, labels sorted by name; ``"unknown"`` where no gene of the model is expressed,
        or none that the reference measured, too, if no others are read (``"cellplm"``).
    ``adata.obs["annotation_score"]``
        Probability of that label, float32; 0 for cells that are unknown.
    ``adata.obsm["annotation_scores"]``
        Probability of every label, float32, (n_obs, n_labels). Of a label ``"T/NK"`` the column is ``"T|NK"``.
    ``adata.uns["annotation"]``
        ``"params"``: the arguments; ``"reference"``: cells learned from, by label; ``"provenance"``: weights with their
        checksum, licence, citation, versions, how each gene was matched, and the number of ``"shared_genes"``.

    Raises
    ------
    ValueError
        If the reference has no such column, no labelled cell or one label only; if a key does not exist; if values of
        either data set are scaled, negative, NaN or neither counts nor log1p-normalised; if too few genes are known, or
        the two data sets share none of them or are of two species; if an argument is out of range, unknown to the
        weights or of no effect; if ``adata`` is a view of data on disk. Nothing has been computed then, and nothing
        written.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> cells = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> adata, reference = cells[::2].copy(), cells[1::2].copy()
    >>> sf.tl.annotate(adata, reference, labels_key="bulk_labels", n_shots=9)
    >>> adata.obs["annotation"].value_counts()
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.annotation.annotator import Annotator

    _check_shots(n_shots)
    check_training(train=train, max_epochs=max_epochs)
    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    learning = {
        "reference": reference,
        "labels_key": labels_key,
        "n_shots": n_shots,
        "train": train,
        "max_epochs": max_epochs,
        "reference_layer": reference_layer,
        "reference_batch_key": reference_batch_key,
    }
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    opened = open_fitted(model, Annotator, caller=CALLER)
    reference_given(isinstance(opened, Annotator), learning, "labels_key", caller=CALLER)
    if isinstance(opened, Annotator):
        annotator, weights = opened, opened.model
        cells = Cells.of(target, weights.genes, layer=layer, batch_key=batch_key, caller=CALLER)
        logger.info(f"{weights.provenance['weights']} on {compute.device}, as fitted: {cells.summary()}")
    else:
        weights, labelled = opened, modality_of(cast("AnnData | MuData", reference), modality)
        named = _labels(labelled, cast("str", labels_key))
        cells = Cells.of(target, weights.genes, layer=layer, batch_key=batch_key, caller=CALLER)
        to_learn = Cells.of(
            labelled,
            weights.genes,
            layer=reference_layer,
            batch_key=reference_batch_key,
            caller=f"{CALLER} (reference)",
            name="reference",
            batch_argument="reference_batch_key",
        )
        how: dict[str, Any] = {"n_shots": n_shots, "train": train, "max_epochs": max_epochs}
        how |= {"transductive": transductive, "rng": np.random.default_rng(rng), "compute": compute}
        annotator = _learned(weights, cells, to_learn, named, **how)
    scores = annotator.predict(cells, compute)
    known: NDArray[np.bool_] = np.any(scores, axis=1)
    names = [label.name for label in annotator.labels]
    _warn_of_collapse([names[code] for code in np.unique(scores[known].argmax(1))], int(known.sum()))

    params = {name: value for name, value in learning.items() if name != "reference"}
    params |= {"transductive": transductive, "layer": layer, "batch_key": batch_key}
    n_shared = int(np.isin(annotator.genes, cells.measured).sum())
    origin = record(weights, cells, params | {"rng": seed_of(rng), "precision": precision}, shared_genes=n_shared)
    origin[Keys.REFERENCE] = pd.DataFrame({"n_cells": annotator.n_cells}, index=pd.Index(names))
    write_labels(target, key_added, names, scores=scores, decided=scores, named=known, origin=origin)
    if return_fitted:
        return annotator
    return adata if copy else None


def _learned(
    model: Any,
    cells: Cells,
    reference: Cells,
    named: pd.Series,
    *,
    n_shots: int | None,
    train: Train | None,
    max_epochs: int | None,
    transductive: bool,
    rng: np.random.Generator,
    compute: Compute,
) -> Annotator:
    """Learn the names of the reference's cells."""
    from scfoundry.data.genes.overlap import warn_of_few_shared
    from scfoundry.model._capabilities import ReadsTexts, can
    from scfoundry.tasks.annotation.annotator import Annotator, recipe_of

    recipe = recipe_of(model, train=train, max_epochs=max_epochs)
    shared = shared_genes(cells, reference, model)
    seen, what = reference, "a gene of the model"
    if recipe.shared_genes_only:
        seen, what = reference.only(shared), "a gene of the model that adata measured, too"
        smaller = min(len(cells.measured), len(reference.measured))
        warn_of_few_shared(len(shared), smaller, names=("adata", "reference"), caller=CALLER)
    rows = _drawn(reference.names, named, ~seen.empty, n_shots, rng)
    found = sorted(named.iloc[rows].unique())
    if len(found) < 2:
        msg = (
            f"Of the labels of the reference only {quoted(found)} has cells that express {what}; two are needed. Pass "
            "the layer with counts: reference_layer=..."
        )
        raise ValueError(msg)
    refuse_shared_columns(found, caller=CALLER)
    labels = classes_of(found)
    if can(model, ReadsTexts) and model.averages_prompts:
        labels = with_prompts(labels)
    codes = pd.Categorical(named.iloc[rows], [label.name for label in labels]).codes.astype(np.int64)
    logger.info(
        f"{model.provenance['weights']} on {compute.device}, {len(labels)} labels learned from {len(rows):,} cells: "
        f"{cells.summary()}, {len(shared):,} of them in the reference, too"
    )
    shots = reference.take(rows)
    return Annotator.fit(
        model,
        # Learning passes over the cells many times: the few are read once.
        shots if n_shots is None else shots.in_memory(),
        labels,
        codes,
        query=cells if transductive else None,
        genes=shared,
        train=train,
        max_epochs=max_epochs,
        seed=int(rng.integers(2**31)),
        compute=compute,
    )


def _check_shots(n_shots: int | None) -> None:
    if n_shots is not None and n_shots < 1:
        msg = (
            f"n_shots is the number of cells per label and at least 1; got {n_shots}. To learn from all: n_shots=None."
        )
        raise ValueError(msg)


def _warn_of_collapse(given: list[str], n_cells: int) -> None:
    if len(given) == 1 and n_cells > 1:
        logger.warning(
            "%s: all %d cells are called %r. Unless they are of one type, nothing was learned that holds for them: "
            'look at their scores, and try train="head" or another model.',
            CALLER,
            n_cells,
            given[0],
        )


def _labels(reference: AnnData, key: str) -> pd.Series:
    """Label of every cell of the reference as text, missing where it has none."""
    if key not in reference.obs.columns:
        present = ", ".join(map(repr, reference.obs.columns)) or "none"
        msg = f"reference.obs has no column {key!r}; its columns: {present}. Pass one of them as labels_key."
        raise ValueError(msg)
    column = reference.obs[key]
    labels = column.astype(object).where(column.notna(), None).map(str, na_action="ignore")
    says_nothing = labels.str.strip().str.lower().isin(NO_LABEL)
    labels = labels.mask(says_nothing, None)
    classes = labels.dropna().unique()
    if not len(classes):
        msg = f"None of the {reference.n_obs:,} cells of the reference has a label in obs[{key!r}]."
        raise ValueError(msg)
    if len(classes) == 1:
        msg = (
            f"All labelled cells of the reference are {classes[0]!r} in obs[{key!r}]; to tell types apart it needs at "
            "least two. Without a reference: sf.tl.zero_shot_annotate(adata, texts)."
        )
        raise ValueError(msg)
    if n_missing := int(labels.isna().sum()):
        logger.warning(
            "%s: %d cells of the reference have no label and are left out%s.",
            CALLER,
            n_missing,
            f" (of them {n_silent} with an empty one or a word for none)"
            if (n_silent := int(says_nothing.sum()))
            else "",
        )
    return labels


def _drawn(
    names: NDArray[np.str_],
    labels: pd.Series,
    usable: NDArray[np.bool_],
    n_shots: int | None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rows to learn from: drawn in the order of names, so that the order of cells plays no part, and ascending."""
    rows = np.flatnonzero(labels.notna().to_numpy() & usable)
    if n_shots is None:
        return rows
    rows = rows[np.argsort(names[rows], kind="stable")]
    members = pd.Series(rows).groupby(labels.to_numpy()[rows])
    few = {label: len(own) for label, own in members if len(own) < n_shots}
    if few:
        listed = ", ".join(f"{label!r} ({n})" for label, n in few.items())
        logger.warning("%s: fewer than %d cells to learn from: %s; all are taken.", CALLER, n_shots, listed)
    drawn = [rng.choice(own, min(n_shots, len(own)), replace=False) for _, own in members]
    return np.sort(np.concatenate([rows[:0], *drawn]))
