"""Median expression of genes over the cells that express them, the scale of rank encoding (Theodoris et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfoundry._arguments import checks_arguments
from scfoundry.data.tokens.medians import nonzero_medians

if TYPE_CHECKING:
    from anndata import AnnData

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["gene_medians"]


@checks_arguments
def gene_medians(
    adata: AnnData, *, layer: str | None = None, target_sum: float = 1e4, genes: GeneVocabulary | None = None
) -> GeneVocabulary:
    r"""Median expression of every gene over the cells that express it.

    Counts :math:`c_{ij}` are scaled to `target_sum` per cell :cite:p:`theodoris2023geneformer`, and

    .. math:: m_j = \operatorname{median}_{i: c_{ij} > 0} \frac{c_{ij}}{\sum_k c_{ik}} \text{target\_sum}

    to the last bit as :func:`numpy.median` gives it. Memory does not grow with the number of cells.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory, backed or dask. It is only read, several times where it is large.
    layer
        Layer with the counts, ``X`` if `None`.
    target_sum
        Total per cell after scaling. It scales all medians alike and does not change ranks.
    genes
        Genes to take medians of, found by name; all of `adata` if `None`. Totals are over all genes of `adata` even so.

    Returns
    -------
    Vocabulary of the genes expressed in at least one cell, with their medians (in units of ``target_sum``), in the
    order of `genes` or of `adata`.

    Raises
    ------
    ValueError
        If the values are not raw counts or all zero, gene names repeat, too few of `genes` are measured, or
        `target_sum` is not positive.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfoundry as sf
    >>> adata = ad.AnnData(np.array([[1, 3, 0], [2, 0, 0], [6, 2, 0]]))
    >>> adata.var_names = ["CD3E", "GAPDH", "MS4A1"]
    >>> medians = sf.pp.gene_medians(adata, target_sum=1)
    >>> medians.ids, medians.medians
    (array(['CD3E', 'GAPDH'], dtype=object), array([0.75, 0.5 ]))
    >>> sf.pp.rank_encode(adata, genes=medians)
    """
    if not target_sum > 0:
        msg = f"target_sum must be positive; got {target_sum}. The published total: target_sum=1e4."
        raise ValueError(msg)
    if genes is None and not adata.var_names.is_unique:
        repeated = adata.var_names[adata.var_names.duplicated()].unique()
        msg = (
            f"{len(repeated)} gene names occur more than once, for example {repeated[0]!r}, so a median would not say "
            "whose it is. Make them unique: adata.var_names_make_unique()."
        )
        raise ValueError(msg)
    return nonzero_medians(adata, layer=layer, caller="sf.pp.gene_medians", target_sum=target_sum, genes=genes)
