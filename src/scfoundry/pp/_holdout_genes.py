"""Genes to hide from an imputation method, spread over sparsity strata (Wen et al. 2024)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments
from scfoundry._settings import logger
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.stats.strata import stratum_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["holdout_genes"]


@checks_arguments
def holdout_genes(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_per_stratum: int = 25,
    strata: Sequence[float] = (0, 0.75, 0.9, 0.95, 1),
    rng: int | np.random.Generator | None = 11,
) -> pd.DataFrame:
    r"""Draw target genes at random within strata of sparsity.

    The zero rate of gene :math:`j` is :math:`z_j = 1 - \frac{1}{n}\sum_i [x_{ij} \ne 0]`. Stratum :math:`k` holds the
    genes with :math:`s_k < z_j \le s_{k+1}`, so a gene without a single zero is in none. From each, `n_per_stratum`
    genes are drawn without replacement: the hold-out of CellPLM :cite:p:`wen2024cellplm`, which an integer `rng`
    reproduces in its order.

    Parameters
    ----------
    adata
        Cells x genes in which zeros are zeros: counts or their logarithm; in memory, backed or dask. It is only read.
    layer
        Layer to take zero rates from, ``X`` if `None`.
    n_per_stratum
        Genes to draw from each stratum; one that holds fewer gives all it has.
    strata
        Edges of the strata, ascending, between 0 and 1.
    rng
        Seed or generator. A seed is used afresh in every stratum, as published; 11 is that of the published run.

    Returns
    -------
    The genes in the order drawn, with ``stratum`` (categorical) and ``zero_rate``.

    Raises
    ------
    ValueError
        If gene names repeat, `strata` or `n_per_stratum` are not valid, or no gene falls in any stratum.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfoundry as sf
    >>> adata = ad.AnnData(np.tri(4))
    >>> adata.var_names = ["CD3D", "CD4", "MS4A1", "NKG7"]
    >>> sf.pp.holdout_genes(adata, n_per_stratum=1, strata=(0, 0.5, 1))
           stratum  zero_rate
    CD4   (0, 0.5]       0.25
    NKG7  (0.5, 1]       0.75
    """
    edges = _checked(adata, strata)
    n_expressing = np.zeros(adata.n_vars, dtype=np.int64)
    for _, block in row_blocks(adata, layer=layer):
        n_expressing += np.bincount(block.indices[block.data != 0], minlength=adata.n_vars)
    zero_rate = 1 - n_expressing / adata.n_obs
    names = [f"({low:g}, {high:g}]" for low, high in pairwise(edges)]
    stratum = pd.Categorical.from_codes(stratum_of(zero_rate, edges), names, ordered=True)
    genes = pd.DataFrame({"stratum": stratum, "zero_rate": zero_rate}, index=adata.var_names)
    if genes["stratum"].isna().all():
        msg = (
            f"None of the {adata.n_vars} genes has a zero rate above {edges[0]:g} and up to {edges[-1]:g}; rates run "
            f"from {zero_rate.min():.3g} to {zero_rate.max():.3g}. Scaled values have no zeros: pass the layer with "
            'the counts, layer="counts".'
        )
        raise ValueError(msg)
    drawn = []
    for name in names:
        members = genes[genes["stratum"] == name]
        if len(members) < n_per_stratum:
            counted = (len(members), name, n_per_stratum)
            logger.warning(
                "sf.pp.holdout_genes: only %d genes have a zero rate in %s, not %d; all are taken.", *counted
            )
        drawn.append(members.sample(min(n_per_stratum, len(members)), random_state=rng))
    return pd.concat(drawn)


def _checked(adata: AnnData, strata: Sequence[float]) -> list[float]:
    """Edges of the strata as a list."""
    if 0 in adata.shape:
        msg = (
            f"adata has {adata.n_obs} cells and {adata.n_vars} genes, but zero rates need at least one of each. Look "
            "at what selected them: names in adata[:, genes] must match adata.var_names."
        )
        raise ValueError(msg)
    edges = list(strata)
    if len(edges) < 2 or min(edges) < 0 or max(edges) > 1 or any(np.diff(edges) <= 0):
        msg = (
            f"strata must be ascending edges between 0 and 1, at least two; got {tuple(edges)}. "
            "The published ones: strata=(0, 0.75, 0.9, 0.95, 1)."
        )
        raise ValueError(msg)
    if not adata.var_names.is_unique:
        repeated = adata.var_names[adata.var_names.duplicated()].unique()
        msg = (
            f"{len(repeated)} gene names occur more than once, for example {repeated[0]!r}, so a drawn name would not "
            "say which gene to hide. Make them unique: adata.var_names_make_unique()."
        )
        raise ValueError(msg)
    return edges
