"""Pathway tokens of cells, and the genes and gene sets that go with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import announce, open_model, record, write_results

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.tasks.pathway_tokens.ranking import RankBy

__all__ = ["pathway_tokens"]

CALLER = "sf.tl.pathway_tokens"


@checks_arguments
def pathway_tokens(
    adata: AnnData | MuData,
    *,
    gene_sets: str | Path | Mapping[str, Iterable[str]] | None = None,
    n_top_genes: int = 50,
    rank_by: RankBy = "correlation",
    min_cells: int = 10,
    max_q: float = 0.05,
    model: str | Path | FoundationModel = "scpalm",
    layer: str | None = None,
    modality: str = Keys.RNA,
    key_added: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    r"""Pathway tokens: codes of a learned codebook that cells are written in, and the genes that go with each.

    The model turns a cell into N tokens and puts the nearest of C codes in the place of each :cite:p:`scpalm2024`.
    :math:`f_{ck}` is the share of the tokens of cell c that are code k, :math:`x_{cg}` the log1p of its counts per
    10,000. Of the association

    .. math:: S_{kg} = \sum_c f_{ck}\, x_{cg} / \sum_{k'} \sum_c f_{ck'}\, x_{cg}

    every gene has a share with each code, which sum to 1: the mean frequency of the code over cells, weighted by their
    expression of the gene. What a code stands for is read from the genes that go with it, and from gene sets of which
    these hold more than chance would, by the hypergeometric test.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    gene_sets
        GMT file (also ``.gz``) or dict of gene sets, by symbols or identifiers. No test if `None`.
    n_top_genes
        Genes to list per code at most, which are also those that are tested for sets; 10 in the paper.
    rank_by
        ``"correlation"`` of frequency and expression over cells, or the published ``"share"``, in which genes of few
        cells come first (see Notes). Either way only genes are listed that go with the code by ``max_q``.
    min_cells
        A gene is ranked if so many cells express it. The ranked genes are also the background of the test.
    max_q
        Keep genes and sets up to this p value, adjusted for all codes and genes, or all codes and sets (Benjamini and
        Hochberg).
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model that has
        a codebook: `sf.model.ScPaLM`.
    layer, modality
        Layer with the values (``X`` if `None`), and modality of a `MuData`.
    key_added
        Name for the results instead of the usual ones.
    device, precision, batch_size
        As in `sf.tl.embed`.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. Sets:

    ``adata.obsm["X_pathway_tokens"]`` (``key_added`` if given)
        Frequencies of codes, float32, (n_obs, C), columns ``"code_0"``, ``"code_1"``, ...: rows sum to 1, and are NaN
        where no gene of the model is expressed.
    ``adata.uns["pathway_tokens"]`` (``key_added`` if given)
        ``"usage"``: a row per code, with its ``mean_frequency`` and the number of cells that have it (``n_cells``).
        ``"perplexity"``: how many codes, used alike, would be as diverse. ``"association"``: a row per code and gene
        that goes with it, best first: ``code``, ``rank``, ``gene`` as in ``adata.var_names``, ``share``, ``fold`` (the
        share over the mean frequency of the code), ``correlation``, its adjusted p value ``q_value``, and ``n_cells``
        that express the gene. With ``gene_sets``, ``"enrichment"``: a row per code and set up to ``max_q``, the surest
        first: ``code``, ``gene_set``, genes that they share (``n_shared``, ``genes``), that each has among those ranked
        (``n_code``, ``n_gene_set``), ``fold_enrichment``, ``p_value`` and ``q_value``. ``"params"``: the arguments;
        ``"provenance"``: weights with their checksum, licence, citation, versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If the values are scaled, negative, NaN or neither counts nor log1p-normalised; too few genes are known; an
        argument is out of range; a GMT file is damaged, or no set has a measured gene; no gene is expressed in
        ``min_cells`` cells; the model has no codebook; a GPU is not there; or ``adata`` is a view of data on disk.
        Nothing has been written then.
    FileNotFoundError
        If there are no such weights, or no such GMT file.

    Notes
    -----
    A popular code has large shares of all genes, so that shares of different codes do not compare: ``fold`` does.
    Within a code, the share of a gene that few cells express is mostly chance, and such genes come first: they are not
    those of the same code in other cells. The correlation weighs this. Its p values are those of tokens dealt to cells
    at random, by the first three moments of all permutations. As in differential expression cells are taken for
    independent, which those of one donor are not.

    Cells follow each other by name, so that the order of cells does not show. Beyond the frequencies, memory grows with
    codes x genes, not with cells.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sets = {"antigen presentation": ["HLA-DRA", "HLA-DRB1", "HLA-DPA1", "HLA-DPB1", "HLA-DQA1", "CD74"]}
    >>> sf.tl.pathway_tokens(adata, gene_sets=sets)
    >>> adata.uns["pathway_tokens"]["association"].head()
    >>> sf.pl.pathway_tokens(adata, "bulk_labels")
    """
    from scfoundry._device import Compute
    from scfoundry.data.genes.gene_sets import members_of, read_gene_sets
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import TokenisesPathways
    from scfoundry.tasks._enrichment import enrichment
    from scfoundry.tasks.pathway_tokens.association import associate
    from scfoundry.tasks.pathway_tokens.ranking import rank_genes

    if not 0 < max_q <= 1:
        msg = f"max_q must be above 0 and at most 1; got {max_q}. The default: max_q=0.05."
        raise ValueError(msg)
    sets = None if gene_sets is None else read_gene_sets(gene_sets)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    tokenising = open_model(model, TokenisesPathways, caller=CALLER)
    cells = Cells.of(target, tokenising.genes, layer=layer, caller=CALLER)
    known = None if sets is None else members_of(sets, tokenising.genes)
    if known is not None and not any(np.isin(members, cells.measured).any() for members in known.values()):
        measured = quoted(cells.own.alignment.names_of(cells.measured[:3]))
        msg = (
            f"None of the {len(known):,} gene sets has a gene that was measured and that the model knows, such as "
            f"{measured}. Use sets of human gene symbols or identifiers."
        )
        raise ValueError(msg)

    announce(tokenising, compute, cells, f"{tokenising.n_codes:,} codes")
    frequencies, association = associate(tokenising, cells, compute=compute)
    genes = np.flatnonzero(association.n_expressed >= min_cells)
    if not len(genes):
        most = int(association.n_expressed.max())
        fix = f"The most frequent one is in {most}: min_cells={most}, or pass more cells." if most else "None has any."
        msg = f"{CALLER}: no gene of the model is in min_cells={min_cells} of the {cells.n_obs:,} cells. {fix}"
        raise ValueError(msg)
    codes, names = [f"code_{i}" for i in range(tokenising.n_codes)], cells.own.alignment.names_of(genes)
    how: dict[str, Any] = {"n_top_genes": n_top_genes, "rank_by": rank_by, "max_q": max_q}
    table, top = rank_genes(association, genes, codes=codes, names=names, **how)

    origin = record(tokenising, cells, how | {"min_cells": min_cells, "layer": layer, "precision": precision})
    usage = {"mean_frequency": association.usage, "n_cells": association.n_using}
    origin[Keys.USAGE] = pd.DataFrame(usage, index=codes)
    origin["perplexity"] = association.perplexity
    origin[Keys.ASSOCIATION] = table
    if known is not None:
        origin[Keys.ENRICHMENT] = enrichment(top, genes, known, group="code", names=names, max_q=max_q)
    columns = pd.DataFrame(frequencies, index=target.obs_names, columns=codes)
    obsm = f"obsm/{key_added or Keys.embedding(Keys.PATHWAY_TOKENS)}"
    slots = {obsm: columns, f"uns/{key_added or Keys.PATHWAY_TOKENS}": origin}
    write_results(target, slots, units=Units.FREQUENCY, caller=CALLER, undefined=cells.empty)
    return adata if copy else None
