"""The table of human gene names that ships with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfoundry.data.genes.names import gene_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["human_genes"]


def human_genes() -> pd.DataFrame:
    """Names of human genes and their one-to-one mouse orthologs, from GENCODE, HGNC and MGI.

    Returns
    -------
    One row per gene, indexed by Ensembl id: ``symbol``, ``biotype``, ``previous`` and ``alias`` symbols (joined by
    commas), ``mouse_symbol`` and ``mouse_ensembl``. Empty strings where there is none.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.datasets.human_genes().loc["ENSG00000198851", "symbol"]
    'CD3E'
    """
    return gene_table()
