"""What cells take from the other cells of their context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys, Units
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import announce, group_codes, open_model, record, write_results

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry.model import FoundationModel
    from scfoundry.tasks.cell_attention.attend import CellAttention
    from scfoundry.tasks.cell_attention.pairs import Scale

__all__ = ["cell_attention"]

CALLER = "sf.tl.cell_attention"
UNITS = {"shares": Units.SHARE, "specific": Units.FOLD, "raw": Units.ATTENTION}


@checks_arguments
def cell_attention(
    adata: AnnData | MuData,
    *,
    groupby: str | None = None,
    spatial_key: str | None = None,
    batch_key: str | None = None,
    model: str | Path | FoundationModel = "cellplm",
    k: int = 30,
    encoder_layer: int = -1,
    scale: Scale = "shares",
    layer: str | None = None,
    modality: str = Keys.RNA,
    key_added: str = Keys.CELL_ATTENTION,
    device: str = "auto",
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Weights with which the cells of a context attend to each other.

    The coefficients with which the model mixes the other cells into a cell, exactly, averaged over the heads of one
    layer. The ``k`` largest of every cell are kept; between groups all of them are summed. All pairs of cells of a
    context are looked at, so that time grows with the square of its size, and no matrix of cells by cells stands in
    memory. Always in float32: weights of a context differ by less than bfloat16 resolves.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    groupby
        Column of ``obs`` with groups of cells, such as cell types or regions. Cells without a value are in no group,
        but in the context of the others.
    spatial_key
        Key of ``obsm`` with coordinates, for models with positions.
    batch_key
        Column of ``obs`` that names the sample, section or field of view of a cell: no weight goes from one to another.
        One group of all cells if `None`.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model.
    k
        Weights to keep per cell, that of the cell for itself among them.
    encoder_layer
        Number of the layer, from the end if negative.
    scale
        ``"shares"``: the weights of a cell sum to 1. ``"specific"``: that share, over the mean share that the attended
        cell gets from its context; above 1 where this cell attends to it more than others do. ``"raw"``: as they stand
        in the layer; they sum to less than 1, the less the context counts in it.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    device, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), and how many cells at a time (if `None`, what
        suits the device).
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``cell_attention``, sets:

    ``adata.obsp["cell_attention"]``
        The largest weights, CSR float32, (n_obs, n_obs); row i is what cell i attends to. None from or to cells without
        any gene of the model: they stand in the context, as when embedding, but are all alike, and in no group either.
    ``adata.uns["cell_attention"]``
        ``"params"``: the arguments; ``"provenance"``: weights with their checksum, licence, citation, versions, and
        how each gene was matched. With ``groupby``, ``"groups"``: a row per pair of groups, ``attending`` and
        ``attended``, with the number of pairs of cells in one context (``n_pairs``), their mean ``weight``, and
        ``enrichment``: what the first group gives the second, over what it would if each of its cells spread its
        attention evenly over its context. Over all weights, not only those kept; NaN where no context has both.

    Raises
    ------
    ValueError
        If a key does not exist or coordinates are missing, text or of the wrong shape; the values are scaled, negative,
        NaN or neither counts nor log1p-normalised; too few genes are known; an argument is out of range; the model
        reads every cell by itself; a GPU is not there; or ``adata`` is a view of data on disk. Nothing has been
        computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    A weight is no evidence of signalling, contact or cause: the model was trained to fill in masked genes, and cells
    attend to what helps with that. Attention is broad, and most of what differs lies in the cell attended to: read
    enrichments, or ``scale="specific"``. Another context, model or layer gives other weights; a claim needs a control,
    such as shuffled groups. See the guide *What cells take from each other*.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.cell_attention(adata, groupby="bulk_labels")
    >>> adata.uns["cell_attention"]["groups"].nlargest(5, "enrichment")
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import AttendsToCells
    from scfoundry.tasks.cell_attention.attend import attend

    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    codes, names = group_codes(target, groupby, argument="groupby", caller=CALLER)
    compute = Compute.resolve(device, batch_size=batch_size)
    attending = open_model(model, AttendsToCells, caller=CALLER)
    keys: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "spatial_key": spatial_key}
    cells = Cells.of(target, attending.genes, **keys, caller=CALLER)

    announce(attending, compute, cells)
    found = attend(attending, cells, codes, len(names), k=k, layer=encoder_layer, scale=scale, compute=compute)

    arguments = keys | {"groupby": groupby, "k": k, "encoder_layer": encoder_layer, "scale": scale}
    groups = {Keys.GROUPS: _table(found, names)} if groupby is not None else {}
    origin = record(attending, cells, arguments) | groups
    slots = {f"obsp/{key_added}": found.weights, f"uns/{key_added}": origin}
    write_results(target, slots, units=UNITS[scale], caller=CALLER)
    return adata if copy else None


def _table(found: CellAttention, names: list[str]) -> pd.DataFrame:
    """One row per pair of groups."""
    n = len(names)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight, enrichment = found.observed / found.n_pairs, found.observed / found.expected
    return pd.DataFrame(
        {
            "attending": pd.Categorical(np.repeat(names, n), names),
            "attended": pd.Categorical(np.tile(names, n), names),
            "n_pairs": found.n_pairs.ravel(),
            "weight": weight.ravel(),
            "enrichment": enrichment.ravel(),
        },
        index=pd.RangeIndex(n * n).astype(str),
    )
