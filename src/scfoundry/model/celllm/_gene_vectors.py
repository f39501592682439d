"""Vectors of genes that CellLM begins with, such as those of a protein interaction graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scfoundry._arguments import quoted
from scfoundry._settings import logger
from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names

if TYPE_CHECKING:
    import pandas as pd

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["vectors_of_vocabulary"]


def vectors_of_vocabulary(vectors: pd.DataFrame, genes: GeneVocabulary, n_hidden: int) -> torch.Tensor:
    """Vectors of all G genes, (G, n_hidden) float32, found by name; genes without one get the mean of the others'.

    ValueError: if they are of another width, hold what is no number, or are of none of the genes.
    """
    if vectors.shape[1] != n_hidden:
        msg = (
            f"gene_vectors has {vectors.shape[1]} columns, but n_hidden={n_hidden}. Make both alike: "
            f"CellLM(adata, gene_vectors=vectors, n_hidden={vectors.shape[1]}), or "
            f"sf.pp.gene_vectors_from_graph(edges, n_dims={n_hidden})."
        )
        raise ValueError(msg)
    values = vectors.to_numpy(dtype=np.float32)
    if not np.isfinite(values).all():
        wrong = vectors.index[~np.isfinite(values).all(1)]
        msg = (
            f"gene_vectors holds missing or infinite values for {len(wrong):,} genes, for example {wrong[0]!r}. Leave "
            "them out: vectors = vectors.dropna()."
        )
        raise ValueError(msg)
    position = match(genes.index, as_names(vectors.index)).target
    found, row = np.unique(position[position >= 0], return_inverse=True)
    if not len(found):
        given = quoted(vectors.index[:3])
        msg = (
            f"gene_vectors has vectors of none of the {len(genes):,} genes of the model ({', '.join(genes.ids[:3])}); "
            f"its index has {given}. It must hold gene symbols or Ensembl ids: vectors = vectors.set_axis(symbols)."
        )
        raise ValueError(msg)
    # Several names of one gene: the mean of its vectors.
    sums = np.zeros((len(found), n_hidden))
    np.add.at(sums, row, values[position >= 0])
    of_found = sums / np.bincount(row)[:, None]
    table = np.tile(of_found.mean(0), (len(genes), 1))
    table[found] = of_found
    logger.info(
        f"CellLM: {len(found):,} of {len(genes):,} genes have a vector in gene_vectors; the other "
        f"{len(genes) - len(found):,} get the mean of these"
    )
    return torch.from_numpy(table.astype(np.float32))
