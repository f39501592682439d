"""Genes of groups by the attention that cells pay them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import announce, group_codes, open_model, record, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry.model import FoundationModel
    from scfoundry.tasks.gene_attention.moments import Moments
    from scfoundry.tasks.gene_attention.ranking import GeneRanking, RankBy

__all__ = ["rank_genes_attention"]

CALLER = "sf.tl.rank_genes_attention"
UNITS = {"attention": Units.ATTENTION, "difference": Units.STATISTIC}


@checks_arguments
def rank_genes_attention(
    adata: AnnData | MuData,
    groupby: str,
    *,
    model: str | Path | FoundationModel = "celllm",
    groups: str | Sequence[str] | Literal["all"] = "all",
    n_genes: int | None = None,
    rank_by: RankBy = "attention",
    min_cells: int = 10,
    layer: str | None = None,
    modality: str = Keys.RNA,
    key_added: str = Keys.RANK_GENES_ATTENTION,
    device: str = "auto",
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    r"""Rank the genes of every group of cells by the attention that a model pays them :cite:p:`zhao2023celllm`.

    A model that reads a cell as ``<cls>`` and genes gathers in ``<cls>`` what it needs of them. Its weights, averaged
    over heads and layers, are divided between the genes of the cell; :math:`n` genes with shares :math:`a_g` have the
    attention :math:`n a_g`, so that 1 is that of the mean gene, whatever the number of genes. This is averaged over the
    cells of a group in which the model reads the gene, and compared with all other groups. The result has the shape of
    `scanpy.tl.rank_genes_groups`, whose readers and plots take it.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    groupby
        Column of ``obs`` with groups of cells, two at least, such as tumour and normal. Cells without a value are left
        out.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model that
        reads a cell as ``<cls>`` and genes: `sf.model.CellLM`, `sf.model.Celler` or `sf.model.LangCell`.
    groups
        Groups to rank genes of. The others are still among those that they are compared with.
    n_genes
        Genes to write per group, from the highest down; all that the model reads in some cell if `None`.
    rank_by
        ``"attention"``: by the mean attention of the group, as published, which may well be abundance (see
        Notes). ``"difference"``: by what the group attends to more than the others do, Welch's t.
    min_cells
        A gene is ranked in a group if the model reads it in so many of its cells, and comes last elsewhere.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    device, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), and how many cells at a time (if `None`, what
        suits the device), which plays no part in the result.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``rank_genes_attention``, sets:

    ``adata.uns["rank_genes_attention"]``
        Structured arrays with a field per group, ``n_genes`` long: ``"names"``, as in ``adata.var_names``;
        ``"scores"``, what ``rank_by`` says; ``"logfoldchanges"``, log2 of the mean attention in the group over that in
        the others; ``"pvals"`` of Welch's t-test on the attention of single cells, group against others, and
        ``"pvals_adj"`` (Benjamini and Hochberg, over the genes of a group). NaN where less than ``min_cells`` cells of
        the group, or too few of the others, have the gene. ``"pts"`` and ``"pts_rest"``, genes x groups: share of cells
        in which the model reads the gene, in the group and in the others. ``"params"``: the arguments, and what
        scanpy's readers ask for; ``"provenance"``: weights with their checksum, licence, citation, versions, and how
        each gene was matched.

    Raises
    ------
    ValueError
        If the column does not exist, is empty or holds a single group; there is no such group, or one to be ranked has
        less than ``min_cells`` cells; the values are scaled, negative, NaN or neither counts nor log1p-normalised; too
        few genes are known; an argument is out of range; the model has no attention from ``<cls>``; a GPU is not there;
        or ``adata`` is a view of data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    High attention does not make a marker. The published list of tumour cells begins with B2M, TMSB4X and ACTB, which
    are abundant everywhere: levels of expression are part of what a model reads. ``python -m benchmarks
    rank_genes_attention`` measures how far an order is that of mean or of differential expression, beside random
    weights. P values take cells for independent, as those of `scanpy.tl.rank_genes_groups` do: cells of one
    donor are not.

    Always in float32, cells in the order of their names: neither the order of cells nor that of genes shows. Memory
    grows with groups x genes, not with cells. The released code of CellLM computes attention for one cell at a time,
    after the states have changed; here it is that by which the states are computed.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.rank_genes_attention(adata, "bulk_labels", model="langcell", min_cells=5)
    >>> sc.get.rank_genes_groups_df(adata, "Dendritic", key="rank_genes_attention").head()
    >>> sc.pl.rank_genes_groups(adata, key="rank_genes_attention")
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import AttendsFromCls
    from scfoundry.tasks.gene_attention.moments import attention_moments
    from scfoundry.tasks.gene_attention.ranking import rank_genes

    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    codes, names = group_codes(target, groupby, argument="groupby", caller=CALLER, optional=False)
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    ranked = _ranked_groups(groups, names, sizes, groupby=groupby, min_cells=min_cells)
    compute = Compute.resolve(device, batch_size=batch_size)
    reading = open_model(model, AttendsFromCls, caller=CALLER)
    cells = Cells.of(target, reading.genes, layer=layer, caller=CALLER)

    announce(reading, compute, cells, f"{len(names):,} groups")
    moments = attention_moments(reading, cells, codes, len(names), compute=compute)
    read = np.flatnonzero(moments.n_cells.any(0))
    moments = moments.of_genes(read)
    ranking = rank_genes(moments, min_cells=min_cells)

    genes = cells.own.alignment.names_of(read)
    columns = _columns(ranking, moments, ranked, names, sizes, np.array(genes, dtype=object), n_genes, rank_by)
    arguments: dict[str, Any] = {"groupby": groupby, "groups": [names[i] for i in ranked], "n_genes": n_genes}
    arguments |= {"rank_by": rank_by, "min_cells": min_cells, "layer": layer}
    # What readers of `scanpy.tl.rank_genes_groups` ask for.
    arguments |= {"reference": "rest", "method": "t-test", "use_raw": False, "corr_method": "benjamini-hochberg"}
    origin = record(reading, cells, arguments) | columns
    write_results(target, {f"uns/{key_added}": origin}, units=UNITS[rank_by], caller=CALLER)
    return adata if copy else None


def _ranked_groups(
    asked: Sequence[str] | str, names: list[str], sizes: NDArray[np.int64], *, groupby: str, min_cells: int
) -> list[int]:
    """Numbers of the groups to rank genes of, in the order of their names."""
    where = f"{CALLER}: adata.obs[{groupby!r}]"
    if len(names) < 2:
        msg = (
            f"{where} has a single group, {names[0]!r}, and there are no other cells to compare it with. Pass a column "
            "with two groups or more as groupby."
        )
        raise ValueError(msg)
    wanted = names if asked == "all" else [asked] if isinstance(asked, str) else list(map(str, asked))
    if not wanted or (unknown := sorted(set(wanted) - set(names))):
        what = f"no group {quoted(unknown)}" if wanted else "groups, and none was asked for"
        msg = f'{where} has {what}. Pass some of these as groups, or "all": {quoted(names)}.'
        raise ValueError(msg)
    ranked = [i for i, name in enumerate(names) if name in wanted]
    if small := [names[i] for i in ranked if sizes[i] < min_cells]:
        fewest = min(int(sizes[names.index(name)]) for name in small)
        enough = [name for name, size in zip(names, sizes, strict=True) if size >= min_cells]
        without = f"To leave them out: groups={enough}. " if enough else ""
        msg = (
            f"{where} has groups of less than {min_cells} cells, {quoted(small, 5)} ({fewest:,} at the least), so that "
            f"no gene has min_cells={min_cells}. {without}To rank genes that fewer cells have: min_cells={fewest}."
        )
        raise ValueError(msg)
    return ranked


def _columns(
    ranking: GeneRanking,
    moments: Moments,
    ranked: list[int],
    names: list[str],
    sizes: NDArray[np.int64],
    genes: NDArray[np.object_],
    n_genes: int | None,
    rank_by: RankBy,
) -> dict[str, Any]:
    """What `scanpy.tl.rank_genes_groups` writes, a field per group."""
    order, named = ranking.order(rank_by), [names[i] for i in ranked]
    scores = ranking.attention if rank_by == "attention" else ranking.statistic
    values = {"scores": (scores, "f4"), "logfoldchanges": (ranking.log2_ratio, "f4")}
    values |= {"pvals": (ranking.p_values, "f8"), "pvals_adj": (ranking.q_values, "f8")}
    values |= {"names": (np.broadcast_to(genes, scores.shape), "O")}
    found: dict[str, Any] = {
        name: np.rec.fromarrays(
            [table[i, order[i][:n_genes]] for i in ranked], dtype=[(group, kind) for group in named]
        )
        for name, (table, kind) in values.items()
    }
    for name, counted, of in (
        ("pts", moments.n_cells, sizes),
        ("pts_rest", moments.of_rest().n_cells, sizes.sum() - sizes),
    ):
        shares = (counted / of[:, None])[ranked]
        found[name] = pd.DataFrame(shares.T, index=genes, columns=named)
    return found
