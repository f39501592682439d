"""Which genes attend to which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import announce, group_codes, open_model, record, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry.model import FoundationModel
    from scfoundry.tasks.gene_network.network import GeneNetwork

__all__ = ["gene_network"]

CALLER = "sf.tl.gene_network"
# Name of the group where there are no groups.
ALL = "all"


@checks_arguments
def gene_network(
    adata: AnnData | MuData,
    *,
    groupby: str | None = None,
    genes: Sequence[str] | None = None,
    n_genes: int = 500,
    top_k: int = 1000,
    min_cells: int = 10,
    model: str | Path | FoundationModel = "celler",
    encoder_layer: int = -1,
    layer: str | None = None,
    modality: str = Keys.RNA,
    key_added: str = Keys.GENE_NETWORK,
    device: str = "auto",
    copy: bool = False,
) -> AnnData | MuData | None:
    r"""Network of genes by the attention of a model that reads cells as genes :cite:p:`cui2024scgpt`.

    In every cell and head of one layer, the products of queries and keys of all pairs of genes become ranks, within
    rows and then within columns; ranks are averaged over heads, and over the cells of every group. Each cell counts,
    for the genes that the model reads of it; padding does not. An edge leads from the gene attended to, whose state
    informs, to the gene that attends.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    groupby
        Column of ``obs`` with groups of cells, such as cell types or conditions, each with edges of its own. Cells
        without a value are left out. One group ``"all"`` of all cells if `None`.
    genes
        Genes that the network is about, by their names in ``adata`` or any that the model knows. Models read all genes
        of a cell all the same; ranks are among these. If `None`, the most variable ones.
    n_genes
        How many of the most variable genes, among those expressed in ``min_cells`` cells. Memory grows with its square:
        12 bytes per pair and group.
    top_k
        Edges to keep per group, those with the largest weight.
    min_cells
        Edges are between genes that at least so many cells of a group have both.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model that
        reads cells as genes: `sf.model.Celler` or `sf.model.LangCell`.
    encoder_layer
        Number of the layer, from the end if negative.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    device
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``).
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``gene_network``, sets:

    ``adata.uns["gene_network"]``
        ``"edges"``: a row per edge, by group and from the largest weight down: ``group``, ``source`` (attended to),
        ``target`` (attends), both by their names in ``adata``, ``weight`` (mean rank from 0 to 1; 0.5 is chance) and
        ``n_cells``, the cells it is a mean of. ``"params"``: the arguments; ``"provenance"``: weights with their
        checksum, licence, citation, versions, how each gene was matched, and the genes that the network is about.

    Raises
    ------
    ValueError
        If the column does not exist or is empty; a gene is unknown, not measured or named twice, or less than two are
        left; the values are scaled, negative, NaN or neither counts nor log1p-normalised; too few genes are known; an
        argument is out of range; the model does not read cells as genes; a GPU is not there; or ``adata`` is a view of
        data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    Always in float32 and cell by cell, since ranks turn rounding into steps: neither the order of cells nor that of
    genes shows in a result. The public notebook of scGPT leaves out the first cell of every condition, ranks padding
    with the genes, and breaks ties by position; here ties share a rank, and a gene is not ranked against itself.

    A weight is no evidence of regulation. See the guide *Networks and programmes of genes* for how well edges agree
    with known interactions, beside co-expression and random weights.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.gene_network(adata, groupby="bulk_labels", n_genes=100, model="langcell")
    >>> adata.uns["gene_network"]["edges"].query("group == 'Dendritic'").head()
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import AttendsToGenes
    from scfoundry.tasks.gene_network.genes import expressed_genes, named_genes
    from scfoundry.tasks.gene_network.network import gene_network as network_of

    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    codes, groups = group_codes(target, groupby, argument="groupby", caller=CALLER)
    if groupby is None:
        codes, groups = np.zeros_like(codes), [ALL]
    compute = Compute.resolve(device)
    reading = open_model(model, AttendsToGenes, caller=CALLER)
    cells = Cells.of(target, reading.genes, layer=layer, caller=CALLER)
    if genes is None:
        about = expressed_genes(cells, n_genes, min_cells=min_cells, caller=CALLER)
    else:
        about = named_genes(cells, genes, reading.genes, caller=CALLER)
    names = cells.own.alignment.names_of(about)

    announce(reading, compute, cells, f"{len(about):,} genes in {len(groups):,} groups")
    found = network_of(reading, cells, about, codes, len(groups), layer=encoder_layer, compute=compute)

    arguments: dict[str, Any] = {"layer": layer, "groupby": groupby, "n_genes": n_genes if genes is None else None}
    arguments |= {"top_k": top_k, "min_cells": min_cells, "encoder_layer": encoder_layer}
    edges = _edges(found, names, groups, top_k=top_k, min_cells=min_cells)
    origin = record(reading, cells, arguments, network_genes=np.array(names)) | {Keys.EDGES: edges}
    write_results(target, {f"uns/{key_added}": origin}, units=Units.RANK, caller=CALLER)
    return adata if copy else None


def _edges(found: GeneNetwork, names: list[str], groups: list[str], *, top_k: int, min_cells: int) -> pd.DataFrame:
    """One row per edge that is kept."""
    strongest = found.strongest(top_k, min_cells=min_cells)
    n_edges = [len(rows) for rows, _ in strongest]
    if without := [name for name, n in zip(groups, n_edges, strict=True) if not n]:
        logger.warning(
            "%s: %s: no two genes are read of %d cells or more, so that there is no edge. Lower min_cells.",
            CALLER,
            quoted(without, 5),
            min_cells,
        )
    group = np.repeat(np.arange(len(groups)), n_edges)
    rows, columns = (np.concatenate(parts) for parts in zip(*strongest, strict=True))
    named = np.array(names, dtype=object)
    values = {
        "group": pd.Categorical.from_codes(group, groups),
        "source": named[columns],
        "target": named[rows],
        "weight": found.weights[group, rows, columns].astype(np.float32),
        "n_cells": found.n_cells[group, rows, columns].astype(np.int64),
    }
    return pd.DataFrame(values, index=pd.RangeIndex(len(group)).astype(str))
