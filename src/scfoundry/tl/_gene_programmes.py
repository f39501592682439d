"""Groups of genes that a model describes alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import new_seed, open_model, record, write_results

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry.model import FoundationModel

__all__ = ["gene_programmes"]

CALLER = "sf.tl.gene_programmes"


@checks_arguments
def gene_programmes(
    adata: AnnData | MuData,
    *,
    gene_sets: str | Path | Mapping[str, Iterable[str]] | None = None,
    n_genes: int = 2000,
    resolution: float = 5.0,
    n_neighbors: int = 15,
    min_genes: int = 5,
    max_q: float = 0.05,
    model: str | Path | FoundationModel = "cellplm",
    layer: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.GENE_PROGRAMMES,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Gene programmes: Leiden clusters of the gene vectors of a model :cite:p:`cui2024scgpt`.

    Vectors are what the weights know of genes before any cell; the data only say which genes are of interest. What
    programmes are about, gene sets can tell: of which they hold more genes than as many drawn at random would, by the
    hypergeometric test.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    gene_sets
        GMT file (also ``.gz``) or dict of gene sets, by symbols or identifiers. No test if `None`.
    n_genes
        How many genes to group, the most variable of those that the model knows. They are also the background of the
        test: genes of a set that are not among them do not count.
    resolution
        Of Leiden; higher for more and smaller programmes.
    n_neighbors
        Nearest genes, by the cosine of their vectors, that a gene is connected with.
    min_genes
        Clusters of fewer genes are no programme.
    max_q
        Keep sets up to this p value, adjusted for all programmes and sets (Benjamini and Hochberg).
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model that has
        gene vectors: `sf.model.CellPLM` or `sf.model.Celler`.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    rng
        Seed or generator, of Leiden.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``gene_programmes``, sets:

    ``adata.var["gene_programmes"]``
        Programme of every gene, ``"1"`` being the largest; missing where a gene is in none or was not looked at.
    ``adata.uns["gene_programmes"]``
        ``"params"``: the arguments; ``"provenance"``: weights with their checksum, licence, citation, versions, and how
        each gene was matched. With ``gene_sets``, ``"enrichment"``: a row per programme and set up to ``max_q``, the
        surest first: ``programme``, ``gene_set``, genes that they share (``n_shared``, ``genes``), that each has among
        those looked at (``n_programme``, ``n_gene_set``), ``fold_enrichment``, ``p_value`` and ``q_value``.

    Raises
    ------
    ValueError
        If the values are scaled, negative, NaN or neither counts nor log1p-normalised; too few genes are known; an
        argument is out of range; a GMT file is damaged, or no set has a gene that is looked at; the model has no gene
        vectors; or ``adata`` is a view of data on disk. Nothing has been written then.
    FileNotFoundError
        If there are no such weights, or no such GMT file.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sets = {"antigen presentation": ["HLA-DRA", "HLA-DRB1", "HLA-DPA1", "HLA-DPB1", "HLA-DQA1", "CD74"]}
    >>> sf.tl.gene_programmes(adata, gene_sets=sets)
    >>> adata.uns["gene_programmes"]["enrichment"]
    """
    from scfoundry.data.genes.gene_sets import members_of, read_gene_sets
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import HasGeneVectors
    from scfoundry.stats.variable_genes import variable_genes
    from scfoundry.tasks._enrichment import enrichment
    from scfoundry.tasks.gene_programmes.programmes import gene_programmes as programmes_of

    if n_neighbors < 2:
        msg = f"n_neighbors must be a whole number from 2; got {n_neighbors!r}. The default: n_neighbors=15."
        raise ValueError(msg)
    if not resolution > 0 or not 0 < max_q <= 1:
        msg = (
            f"resolution must be above 0 and max_q above 0 and at most 1; got {resolution} and {max_q}. The defaults: "
            "resolution=5.0, max_q=0.05."
        )
        raise ValueError(msg)
    sets = None if gene_sets is None else read_gene_sets(gene_sets)
    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    knowing = open_model(model, HasGeneVectors, caller=CALLER)
    cells = Cells.of(target, knowing.genes, layer=layer, caller=CALLER)
    genes = variable_genes([cells.reader], n_genes)
    if len(genes) < 3:
        msg = (
            f"{CALLER}: only {len(genes)} genes that the model knows vary in adata. Groups need more: pass all cells "
            "and genes."
        )
        raise ValueError(msg)
    known = None if sets is None else members_of(sets, knowing.genes)
    if known is not None and not any(np.isin(genes, members).any() for members in known.values()):
        msg = (
            f"None of the {len(known):,} gene sets has a gene among the {len(genes):,} that are looked at, such as "
            f"{quoted(cells.own.alignment.names_of(genes[:3]))}. Use sets of human gene symbols or "
            "identifiers, or look at more genes: n_genes=10_000."
        )
        raise ValueError(msg)

    logger.info(f"{knowing.provenance['weights']}, vectors of {len(genes):,} genes: {cells.summary()}")
    how: dict[str, Any] = {"resolution": float(resolution), "n_neighbors": n_neighbors, "min_genes": min_genes}
    programmes = programmes_of(knowing.gene_vectors()[genes], seed=new_seed(rng), **how)

    labels = [str(i + 1) for i in range(programmes.max() + 1)]
    arguments = how | {"layer": layer, "n_genes": n_genes, "rng": rng, "max_q": max_q}
    origin = record(knowing, cells, arguments)
    if known is not None:
        names = cells.own.alignment.names_of(genes)
        groups = {label: programmes == i for i, label in enumerate(labels)}
        origin[Keys.ENRICHMENT] = enrichment(groups, genes, known, group="programme", names=names, max_q=max_q)
    # Of all columns: several may hold counts of one gene.
    number = np.full(len(knowing.genes) + 1, -1)
    number[genes] = programmes
    of_column = number[cells.own.alignment.target]
    groups = pd.Categorical.from_codes(of_column, labels)
    slots = {f"var/{key_added}": groups, f"uns/{key_added}": origin}
    write_results(target, slots, units=Units.GROUP, caller=CALLER)
    return adata if copy else None
