"""Pathways that are active in a cell, as learned from cells where it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.modality import modality_of, to_write
from scfoundry.tl._label_slots import column, refuse_shared_columns
from scfoundry.tl._opening import check_return, open_fitted, record, seed_of
from scfoundry.tl._query_and_reference import check_training, reference_given, shared_genes

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.tasks.annotation.annotator import Train
    from scfoundry.tasks.annotation.pathways import Pathways

__all__ = ["identify_pathways"]

CALLER = "sf.tl.identify_pathways"


def identify_pathways(
    adata: AnnData | MuData,
    reference: AnnData | MuData | None = None,
    *,
    pathways_key: str | None = None,
    model: str | Path | FoundationModel | Pathways = "cellnamer",
    train: Train | None = None,
    max_epochs: int | None = None,
    layer: str | None = None,
    reference_layer: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.PATHWAYS,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
    return_fitted: bool = False,
) -> AnnData | MuData | Pathways | None:
    """Say which pathways are active in every cell, as learned from cells where it is known.

    A cell may have several, or none: every pathway is read on its own, by a logistic regression on the embedding of
    any model and on the principal components of both data sets together, or by LangCell's transformer as published
    :cite:p:`zhao2024langcell`. Any other labels of which a cell may have several are learned alike.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or log1p-normalised values where there are no counts; in memory, backed or dask.
        Of a `MuData`, one modality is annotated.
    reference
        Cells to learn from, in the same forms; not with a fitted ``model``.
    pathways_key
        Table in the reference's ``obsm`` that says which pathways are active: 0 or 1 (or bool), (n_obs, P). Cells with
        a missing value are left out.
    model
        A model (``"cellnamer"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded
        model; or a `sf.tasks.Pathways`, or the folder of one, which identifies what it has learned before.
    train
        A ``"head"`` on the weights as they are, or ``"all"`` of them in a copy, as the model's authors published;
        ``"all"`` if `None` for models with a published way (LangCell's transformer), else a ``"head"``.
    max_epochs
        Passes over the cells, for ``train="all"``; the published number if `None`. A head is fitted until it is best.
    layer
        Layer with the values, ``X`` if `None`.
    reference_layer
        The same of the reference.
    modality
        Modality of a `MuData`.
    rng
        Seed or generator, for training.
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
        Return what was learned, to save it or to look at other cells with it.

    Returns
    -------
    `None`, the copy if ``copy=True``, or the `sf.tasks.Pathways` if ``return_fitted=True``. With ``key_added`` for
    ``pathways``, sets:

    ``adata.obsm["pathways"]``
        Probability that a pathway is active, float32, (n_obs, P); 0 for cells that express no gene of the model. Of a
        pathway ``"TNF/NFKB"`` the column is ``"TNF|NFKB"``.
    ``adata.uns["pathways"]``
        ``"params"``: the arguments; ``"reference"``: cells in which each pathway is active, of those learned from;
        ``"provenance"``: weights with their checksum, licence, citation, versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If the reference has no such table, its values are not 0 or 1, or a pathway is active in all of its cells or in
        none; if values of either data set are neither counts nor log1p-normalised; if too few genes are known, or the
        two data sets share none of them or are of two species; if an argument is out of range, unknown to the weights
        or of no effect. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> cells = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> types = cells.obs["bulk_labels"].astype(str)
    >>> cells.obsm["active"] = (
    ...     types.to_frame("cytotoxic")
    ...     .isin(["CD56+ NK", "CD8+ Cytotoxic T"])
    ...     .assign(presenting=types.isin(["Dendritic", "CD19+ B", "CD14+ Monocyte"]))
    ... )
    >>> adata, reference = cells[::2].copy(), cells[1::2].copy()
    >>> sf.tl.identify_pathways(adata, reference, pathways_key="active")
    >>> adata.obsm["pathways"].mean()
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.annotation.pathways import Pathways, check_learning

    check_training(train=train, max_epochs=max_epochs)
    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    learning = {
        "reference": reference,
        "pathways_key": pathways_key,
        "train": train,
        "max_epochs": max_epochs,
        "reference_layer": reference_layer,
    }
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    opened = open_fitted(model, Pathways, caller=CALLER)
    reference_given(isinstance(opened, Pathways), learning, "pathways_key", caller=CALLER)
    if isinstance(opened, Pathways):
        pathways, weights = opened, opened.model
        cells = Cells.of(target, weights.genes, layer=layer, caller=CALLER)
        logger.info(f"{weights.provenance['weights']} on {compute.device}, as fitted: {cells.summary()}")
    else:
        weights, labelled = opened, modality_of(cast("AnnData | MuData", reference), modality)
        active = _active(labelled, cast("str", pathways_key))
        refuse_shared_columns(active.columns.tolist(), caller=CALLER)
        check_learning(weights, train=train, max_epochs=max_epochs)
        cells = Cells.of(target, weights.genes, layer=layer, caller=CALLER)
        to_learn = Cells.of(labelled, weights.genes, layer=reference_layer, caller=f"{CALLER} (reference)")
        shared = shared_genes(cells, to_learn, weights)
        rows = np.flatnonzero(~to_learn.empty & active.notna().all(axis=1).to_numpy())
        targets = active.iloc[rows].astype(np.int8)
        _refuse_constant(targets)
        logger.info(
            f"{weights.provenance['weights']} on {compute.device}, {targets.shape[1]} pathways learned from "
            f"{len(rows):,} cells: {cells.summary()}, {len(shared):,} of them in the reference, too"
        )
        how: dict[str, Any] = {"query": cells, "train": train, "max_epochs": max_epochs, "compute": compute}
        seed = int(np.random.default_rng(rng).integers(2**31))
        pathways = Pathways.fit(weights, to_learn.take(rows), targets, seed=seed, **how)
    scores = pathways.predict(cells, compute)

    params = {name: value for name, value in learning.items() if name != "reference"}
    params |= {"layer": layer, "rng": seed_of(rng), "precision": precision}
    names, n_shared = list(map(column, pathways.names)), int(np.isin(pathways.genes, cells.measured).sum())
    target.obsm[key_added] = pd.DataFrame(scores, index=target.obs_names, columns=names)
    target.uns[key_added] = record(weights, cells, params, shared_genes=n_shared) | {
        Keys.REFERENCE: pd.DataFrame({"n_cells": pathways.n_cells}, index=pd.Index(names))
    }
    if return_fitted:
        return pathways
    return adata if copy else None


def _active(reference: AnnData, key: str) -> pd.DataFrame:
    """Which pathways are active in every cell of the reference, 0, 1 or missing."""
    if key not in reference.obsm:
        present = ", ".join(map(repr, reference.obsm)) or "none"
        msg = (
            f"reference.obsm has no table {key!r}; its tables: {present}. Pass one with a column of 0 and 1 per "
            f"pathway: reference.obsm[{key!r}] = (scores > threshold)."
        )
        raise ValueError(msg)
    values = reference.obsm[key]
    table = values if isinstance(values, pd.DataFrame) else pd.DataFrame(np.asarray(values), reference.obs_names)
    table = table.set_axis(table.columns.map(str), axis=1)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        msg = f"reference.obsm[{key!r}] has the column {twice!r} more than once. Give every pathway its own name."
        raise ValueError(msg)
    strange = table.to_numpy()[~table.isin([0, 1]).to_numpy(dtype=bool) & table.notna().to_numpy(dtype=bool)]
    if len(strange) or not table.shape[1]:
        found = f"holds {strange[0]}" if len(strange) else "has no column"
        msg = (
            f"reference.obsm[{key!r}] {found}, but must say 0 or 1 (or False, True) for every cell and pathway: "
            f"reference.obsm[{key!r}] = (scores > threshold)."
        )
        raise ValueError(msg)
    return table


def _refuse_constant(targets: pd.DataFrame) -> None:
    share = targets.mean()
    constant = share[(share == 0) | (share == 1) | share.isna()]
    if len(constant):
        where = "all" if constant.iloc[0] == 1 else "none"
        msg = (
            f"{constant.index[0]!r} is active in {where} of the {len(targets):,} cells to learn from, so that nothing "
            "tells it apart. Leave it out of the table, or add cells where it is otherwise."
        )
        raise ValueError(msg)
