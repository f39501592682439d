"""Cell types learned from a labelled reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._said_once import said_once
from scfoundry._settings import logger
from scfoundry.data.labels import NO_LABEL
from scfoundry.data.modality import modality_of, to_write

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.model._contracts import Train

__all__ = ["annotate"]

CALLER = "sf.tl.annotate"


@said_once()
def annotate(
    adata: AnnData | MuData,
    reference: AnnData | MuData,
    *,
    labels_key: str,
    model: str | Path | FoundationModel = "cellnamer",
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
) -> AnnData | MuData | None:
    """Name the type of every cell, as learned from labelled cells of a reference.

    What is learned depends on the model. ``"langcell"``: its default weights stay as they are and get a linear head,
    which starts from what the texts of the labels say and is fitted to the embedding and the principal components of
    the cells of the reference; a copy of a transformer is fine-tuned as a whole. ``"cellplm"``: a head with two
    opinions learns the labels, by the embedding and by single genes; with ``train="all"`` the encoder is fine-tuned,
    too, until the loss of held-out cells of the reference no longer falls. A loaded model that you pass, and the
    reference, stay as they are. Genes of both data sets are found by name; they need not measure the same ones.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or log1p-normalised values where there are no counts; in memory, backed or dask.
        Of a `MuData`, one modality is annotated.
    reference
        Labelled cells, in the same forms.
    labels_key
        Column of the reference's ``obs`` with the labels. Cells without one are left out: missing, empty, or a word
        for it (``"unknown"``, ``"unassigned"``, ``"nan"``, ``"none"``, ``"na"``, ``"n/a"``, in upper or lower case).
    model
        A model (``"cellnamer"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded
        model.
    n_shots
        Learn from this many cells per label, drawn at random; from all if `None`.
    train
        ``"all"`` weights, or a ``"head"`` on the others; what suits the weights if `None`: all of a LangCell that is a
        transformer, a head on CellPLM and on langcell-mini, which learns in no other way.
    max_epochs
        Passes over the cells to learn from, for transformers: heads on langcell-mini and CellPLM are fitted until they
        are best. Chosen by the model if `None`.
    transductive
        Whether the cells of ``adata``, without labels, have a say while the labels are learned: CellPLM, whose unit is
        a group of cells, sees them in the context of the reference, as published, and langcell-mini finds by them, too,
        along which axes cells differ. CellPLM then names them in contexts of their own, unlike in the publication.
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

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``annotation``, sets:

    ``adata.obs["annotation"]``
        Label of every cell, categorical, labels sorted by name; ``"unknown"`` where no gene of the model is expressed,
        or none that the reference measured, too, if the model reads no others (CellPLM).
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
        the two data sets share none of them or are of two species; if an argument is out of range or unknown to the
        weights, or the model does not learn labels; if ``adata`` is a view of data on disk. Nothing has been computed
        then, and nothing written.
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
    from scfoundry._device import autocast, resolve_device
    from scfoundry.data.genes.overlap import warn_of_few_shared
    from scfoundry.data.matrix.contexts import contexts
    from scfoundry.model._base import FoundationModel
    from scfoundry.model._contracts import LearnsFromSharedGenes, Query, ReadsTexts
    from scfoundry.model._load import load_pretrained
    from scfoundry.model._offers import learns_labels
    from scfoundry.tl._label_slots import empty_cells, refuse_shared_columns, write_labels
    from scfoundry.tl._labels import classes_of, with_prompts
    from scfoundry.tl._query_and_reference import check_training, query_and_reference

    if n_shots is not None and n_shots < 1:
        msg = (
            f"n_shots is the number of cells per label and at least 1; got {n_shots}. To learn from all: n_shots=None."
        )
        raise ValueError(msg)
    check_training(train=train, max_epochs=max_epochs, batch_size=batch_size)
    adata, cells = to_write(adata, modality, copy=copy, caller=CALLER)
    labelled = modality_of(reference, modality)
    named = _labels(labelled, labels_key)
    contexts(cells, batch_key)
    contexts(labelled, reference_batch_key, name="reference", argument="reference_batch_key")
    torch_device = resolve_device(device)
    autocast(torch_device, precision)
    loaded = model if isinstance(model, FoundationModel) else load_pretrained(model)
    learner = learns_labels(loaded, caller=CALLER)
    reader, teacher, shared = query_and_reference(
        cells, labelled, loaded, layer=layer, reference_layer=reference_layer, caller=CALLER
    )
    sides, told_by = (reader, teacher), "a gene of the model"
    if isinstance(loaded, LearnsFromSharedGenes) and loaded.learns_from_shared_genes:
        sides, told_by = (reader.only(shared), teacher.only(shared)), "a gene of the model that adata measured, too"
        smaller = min(len(side.alignment.measured) for side in sides)
        warn_of_few_shared(len(shared), smaller, names=("adata", "reference"), caller=CALLER)
    there, teaches = (~empty_cells(side) for side in sides)
    generator = np.random.default_rng(rng)
    rows = _drawn(labelled, named, teaches, n_shots, generator)
    learned_from = named.iloc[rows].value_counts().sort_index()
    if len(learned_from) < 2:
        msg = (
            f"Of the labels of the reference only {', '.join(map(repr, learned_from.index)) or 'none'} has cells that "
            f"express {told_by}; two are needed. Pass the layer with counts: reference_layer=..."
        )
        raise ValueError(msg)
    refuse_shared_columns(learned_from.index.tolist(), caller=CALLER)
    classes = classes_of(learned_from.index.tolist())
    if isinstance(loaded, ReadsTexts) and loaded.averages_prompts:
        classes = with_prompts(classes)
    codes = pd.Categorical(named.iloc[rows], [label.name for label in classes]).codes.astype(np.int64)

    logger.info(
        f"{loaded.provenance['weights']} on {torch_device}: {cells.n_obs:,} cells, {len(classes)} labels learned from "
        f"{len(rows):,} cells, {reader.report.state}; {reader.alignment.summary()}, {len(shared):,} of them in "
        "the reference, too"
    )
    shots = labelled[rows]
    fitted = learner.fit_labels(
        # Learning passes over the cells many times: the few are read once.
        shots if n_shots is None else shots.to_memory(),
        classes,
        codes,
        query=Query(cells, reader, batch_key) if transductive else None,
        genes=shared,
        train=train,
        layer=reference_layer,
        batch_key=reference_batch_key,
        max_epochs=max_epochs,
        seed=int(generator.integers(2**31)),
        device=device,
        precision=precision,
    )
    told = fitted.predict_labels(
        cells, layer=layer, batch_key=batch_key, batch_size=batch_size, device=device, precision=precision
    )
    scores = np.where(there[:, None], told, np.float32(0))
    _warn_of_collapse([classes[code].name for code in np.unique(told[there].argmax(1))], int(there.sum()))

    params = {
        "labels_key": labels_key,
        "n_shots": n_shots,
        "train": train,
        "max_epochs": max_epochs,
        "transductive": transductive,
        "layer": layer,
        "reference_layer": reference_layer,
        "batch_key": batch_key,
        "reference_batch_key": reference_batch_key,
        "rng": rng if isinstance(rng, int | np.integer) else None,
        "precision": precision,
    }
    origin = {
        Keys.PARAMS: {name: value for name, value in params.items() if value is not None},
        # An index of the same name as the column could not be written to a file.
        Keys.REFERENCE: pd.DataFrame({"n_cells": learned_from.to_numpy()}, index=learned_from.index.rename(None)),
        Keys.PROVENANCE: loaded.provenance
        | {"values": str(reader.report.state), "genes": reader.alignment.report(), "shared_genes": len(shared)},
    }
    names = [label.name for label in classes]
    write_labels(cells, key_added, names, scores=scores, decided=scores, named=there, origin=origin)
    return adata if copy else None


def _warn_of_collapse(told: list[str], n_cells: int) -> None:
    if len(told) == 1 and n_cells > 1:
        logger.warning(
            "%s: all %d cells are called %r. Unless they are of one type, nothing was learned that holds for them: "
            'look at their scores, and try train="head" or another model.',
            CALLER,
            n_cells,
            told[0],
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
    reference: AnnData,
    labels: pd.Series,
    there: NDArray[np.bool_],
    n_shots: int | None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rows to learn from: drawn in the order of names, so that the order of cells plays no part, and ascending."""
    usable = np.flatnonzero(labels.notna().to_numpy() & there)
    if n_shots is None:
        return usable
    usable = usable[np.argsort(reference.obs_names.to_numpy()[usable].astype(str), kind="stable")]
    members = pd.Series(usable).groupby(labels.to_numpy()[usable])
    few = {label: len(rows) for label, rows in members if len(rows) < n_shots}
    if few:
        listed = ", ".join(f"{label!r} ({n})" for label, n in few.items())
        logger.warning("%s: fewer than %d cells to learn from: %s; all are taken.", CALLER, n_shots, listed)
    drawn = [rng.choice(rows, min(n_shots, len(rows)), replace=False) for _, rows in members]
    return np.sort(np.concatenate(drawn))
