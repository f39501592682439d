"""Pathways that are active in a cell, as learned from cells where it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._compat import data_frame
from scfoundry._keys import Keys, Units
from scfoundry.data.modality import modality_of, to_write
from scfoundry.tl._label_slots import column, refuse_shared_columns
from scfoundry.tl._opening import announce, check_return, new_seed, write_results
from scfoundry.tl._query_and_reference import open_learned, record_learned, shared_genes

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


@checks_arguments
def identify_pathways(
    adata: AnnData | MuData,
    reference: AnnData | MuData | None = None,
    *,
    pathways_key: str | None = None,
    model: str | Path | FoundationModel | Pathways = "cellnamer",
    train: Train = "head",
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
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    reference
        Cells to learn from, in the same forms; not with a fitted ``model``.
    pathways_key
        Table in the reference's ``obsm`` that says which pathways are active: 0 or 1 (or bool), (n_obs, P). Cells with
        a missing value are left out.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model. Or a
        `sf.tasks.Pathways`, or its folder, which learns no more.
    train
        A ``"head"`` on the weights as they are, or ``"all"`` of them in a copy, as the model's authors published
        (LangCell), which needs many cells and a GPU; on few, a head is better.
    max_epochs
        Passes over the cells, for ``train="all"``; the published number if `None`. A head is fitted until it is best.
    layer, reference_layer
        Layers with the values, ``X`` if `None`.
    modality, key_added
        Modality of a `MuData`, and name for the results.
    rng
        Seed or generator.
    device, precision, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), how precisely (``"float32"``, ``"bfloat16"``
        for matrix products; ``"auto"``: bfloat16 on CUDA; ``"fastest"``: what a short measurement finds faster here),
        and how many cells at a time (if `None`, what suits the device).
    copy, return_fitted
        Return a changed copy, in memory, instead of changing ``adata``; or what was learned, to save or use again.

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
        none; values of either data set are neither counts nor log1p-normalised; too few genes are known, or the two
        share none of them or are of two species; or an argument is out of range, unknown to the weights or of no
        effect. Nothing has been computed then, and nothing written.
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

    check_return(copy=copy, return_fitted=return_fitted, caller=CALLER)
    training: dict[str, Any] = {"train": train, "max_epochs": max_epochs}
    learning = {"pathways_key": pathways_key, "reference_layer": reference_layer, "max_epochs": max_epochs}
    # What is as usual is no argument of learning that could stand beside what was fitted.
    learning |= {"train": None if train == "head" else train}
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    given = {"reference": reference} | learning
    pathways, weights = open_learned(model, Pathways, given, "pathways_key", caller=CALLER)
    labelled = None if reference is None else modality_of(reference, modality)
    active = None if labelled is None else _active(labelled, pathways_key)
    if labelled is not None:
        check_learning(weights, **training)
    cells = Cells.of(target, weights.genes, layer=layer, caller=CALLER)

    if labelled is None or active is None:
        announce(weights, compute, cells, what="as fitted")
    else:
        to_learn = Cells.of(labelled, weights.genes, layer=reference_layer, caller=f"{CALLER} (reference)")
        shared = shared_genes(cells, to_learn, weights)
        rows = np.flatnonzero(~to_learn.empty & active.notna().all(axis=1).to_numpy())
        targets = active.iloc[rows].astype(np.int8)
        _refuse_constant(targets)
        what = f"{targets.shape[1]} pathways learned from {len(rows):,} cells"
        announce(weights, compute, cells, what=what, shared=shared)
        how: dict[str, Any] = {"query": cells, "seed": new_seed(rng), "compute": compute} | training
        pathways = Pathways.fit(weights, to_learn.take(rows), targets, **how)
    scores = pathways.predict(cells, compute)

    params = learning | ({} if labelled is None else training) | {"layer": layer, "rng": rng, "precision": precision}
    names = list(map(column, pathways.names))
    origin = record_learned(weights, pathways, cells, names, params)
    table = pd.DataFrame(scores, index=target.obs_names, columns=names)
    slots = {f"obsm/{key_added}": table, f"uns/{key_added}": origin}
    write_results(target, slots, units=Units.PROBABILITY, caller=CALLER)
    return pathways if return_fitted else adata if copy else None


def _active(reference: AnnData, key: str | None) -> pd.DataFrame:
    """Which pathways are active in every cell of the reference, 0, 1 or missing."""
    if key not in reference.obsm:
        msg = (
            f"reference.obsm has no table {key!r}; its tables: {quoted(reference.obsm)}. Pass one with a column of 0 "
            f"and 1 per pathway: reference.obsm[{key!r}] = (scores > threshold)."
        )
        raise ValueError(msg)
    values = data_frame(reference.obsm[key])
    values = values.toarray() if sparse.issparse(values) else values
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
    refuse_shared_columns(table.columns.tolist(), caller=CALLER)
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
