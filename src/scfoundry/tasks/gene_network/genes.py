"""Genes that a network is about: those asked for, or the most variable ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry._arguments import quoted
from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names
from scfoundry.stats.variable_genes import variable_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.cells import Cells

__all__ = ["expressed_genes", "named_genes"]

# Names of wrong genes in a message.
LISTED = 10


def expressed_genes(cells: Cells, n_genes: int, *, min_cells: int, caller: str) -> NDArray[np.int64]:
    """Vocabulary positions of the most variable genes among those that ``min_cells`` cells express, ascending.

    Raises `ValueError` if there are less than two.
    """
    n_cells = np.zeros(cells.reader.n_vocabulary, dtype=np.int64)
    for block in cells.blocks():
        n_cells += np.bincount(block.indices, minlength=len(n_cells))
    enough = np.flatnonzero(n_cells >= min_cells)
    genes = variable_genes([cells.only(enough).reader], n_genes)
    if len(genes) < 2:
        msg = (
            f"{caller}: {len(genes)} genes that the model knows vary and are expressed by {min_cells} of the "
            f"{cells.n_obs:,} cells, and pairs need two. Ask for fewer cells per gene: min_cells=1."
        )
        raise ValueError(msg)
    return genes


def named_genes(cells: Cells, names: Sequence[str], vocabulary: GeneVocabulary, *, caller: str) -> NDArray[np.int64]:
    """Vocabulary positions of genes by their names in the data, or any that the vocabulary knows, ascending.

    Raises `ValueError` if a gene is named twice, unknown to the model or not measured, or if there are less than two.
    """
    alignment, asked = cells.own.alignment, as_names([names] if isinstance(names, str) else names)
    kept = alignment.kept
    spelled = dict(zip(alignment.names[kept].tolist(), alignment.target[kept].tolist(), strict=True))
    matched = match(vocabulary.index, asked).target.tolist()
    positions = np.array([spelled.get(n, p) for n, p in zip(asked, matched, strict=True)], dtype=np.int64)
    found, times = np.unique(positions, return_counts=True)
    wrong = {
        "not measured in adata, or not known to the model": ~np.isin(positions, cells.measured),
        "named more than once": np.isin(positions, found[times > 1]),
    }
    for why, which in wrong.items():
        if which.any():
            bad = asked[which]
            listed = quoted(bad, LISTED)
            msg = (
                f"{caller}: {len(bad)} of the {len(asked)} genes {'is' if len(bad) == 1 else 'are'} {why}: {listed}. "
                "Keep others, each once: genes = [gene for gene in dict.fromkeys(genes) if gene in adata.var_names]."
            )
            raise ValueError(msg)
    if len(found) < 2:
        msg = f"{caller}: a network needs at least 2 genes; got {len(found)}. For the most variable ones: genes=None."
        raise ValueError(msg)
    return found
