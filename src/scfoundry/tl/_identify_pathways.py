"""Pathways that are active in a cell, as learned from cells where it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.modality import modality_of, to_write

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.model._contracts import Train

__all__ = ["identify_pathways"]

CALLER = "sf.tl.identify_pathways"


def identify_pathways(
    adata: AnnData | MuData,
    reference: AnnData | MuData,
    *,
    pathways_key: str,
    model: str | Path | FoundationModel = "cellnamer",
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
) -> AnnData | MuData | None:
    """Say which pathways are active in every cell, as learned from cells where it is known.

    A cell may have several, or none: every pathway is judged on its own. A copy of a LangCell that is a transformer is
    fine-tuned by a focal loss :cite:p:`zhao2024langcell`; the default weights stay as they are, and every pathway gets
    a logistic regression on the embedding and on the principal components of both data sets together. Any other labels
    of which a cell may have several are learned alike.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or log1p-normalised values where there are no counts; in memory, backed or dask.
        Of a `MuData`, one modality is annotated.
    reference
        Cells to learn from, in the same forms.
    pathways_key
        Table in the reference's ``obsm`` that says which pathways are active: 0 or 1 (or bool), (n_obs, P). Cells with
        a missing value are left out.
    model
        A model (``"cellnamer"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded
        model.
    train
        ``"all"`` weights of a transformer (its way if `None`) or a ``"head"`` on the others.
    max_epochs
        Passes over the cells, for transformers; 20 if `None`.
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

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``pathways``, sets:

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
        two data sets share none of them or are of two species; if an argument is out of range or unknown to the
        weights, or the model does not learn pathways. Nothing has been computed then, and nothing written.
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
    from scfoundry._device import autocast, resolve_device
    from scfoundry.model._base import FoundationModel
    from scfoundry.model._contracts import Query
    from scfoundry.model._load import load_pretrained
    from scfoundry.model._offers import learns_pathways
    from scfoundry.tl._label_slots import column, empty_cells, refuse_shared_columns
    from scfoundry.tl._query_and_reference import check_training, query_and_reference

    check_training(train=train, max_epochs=max_epochs, batch_size=batch_size)
    adata, cells = to_write(adata, modality, copy=copy, caller=CALLER)
    labelled = modality_of(reference, modality)
    active = _active(labelled, pathways_key)
    refuse_shared_columns(active.columns.tolist(), caller=CALLER)
    torch_device = resolve_device(device)
    autocast(torch_device, precision)
    loaded = model if isinstance(model, FoundationModel) else load_pretrained(model)
    learner = learns_pathways(loaded, caller=CALLER)
    reader, teacher, shared = query_and_reference(
        cells, labelled, loaded, layer=layer, reference_layer=reference_layer, caller=CALLER
    )
    there, teaches = (~empty_cells(side) for side in (reader, teacher))
    rows = np.flatnonzero(teaches & active.notna().all(axis=1).to_numpy())
    targets = active.iloc[rows].astype(np.int8)
    _refuse_constant(targets)
    logger.info(
        f"{loaded.provenance['weights']} on {torch_device}: {cells.n_obs:,} cells, {targets.shape[1]} pathways learned "
        f"from {len(rows):,} cells, {reader.report.state}; {reader.alignment.summary()}, {len(shared):,} of them in "
        "the reference, too"
    )
    fitted = learner.fit_pathways(
        labelled[rows],
        targets,
        query=Query(cells, reader, None),
        genes=shared,
        train=train,
        layer=reference_layer,
        max_epochs=max_epochs,
        seed=int(np.random.default_rng(rng).integers(2**31)),
        device=device,
        precision=precision,
    )
    told = fitted.predict_pathways(cells, layer=layer, batch_size=batch_size, device=device, precision=precision)

    params = {
        "pathways_key": pathways_key,
        "train": train,
        "max_epochs": max_epochs,
        "layer": layer,
        "reference_layer": reference_layer,
        "rng": rng if isinstance(rng, int | np.integer) else None,
        "precision": precision,
    }
    names = list(map(column, targets.columns))
    scores = np.where(there[:, None], told, np.float32(0)).astype(np.float32)
    cells.obsm[key_added] = pd.DataFrame(scores, index=cells.obs_names, columns=names)
    cells.uns[key_added] = {
        Keys.PARAMS: {name: value for name, value in params.items() if value is not None},
        Keys.REFERENCE: pd.DataFrame({"n_cells": targets.sum().to_numpy()}, index=pd.Index(names)),
        Keys.PROVENANCE: loaded.provenance
        | {"values": str(reader.report.state), "genes": reader.alignment.report(), "shared_genes": len(shared)},
    }
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
