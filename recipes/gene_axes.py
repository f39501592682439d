"""What training of gene vectors starts from: the principal axes of the corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["MAX_CELLS", "gene_axes"]

# Scale of the principal axes that the gene vectors start as.
SCALE = 0.3
# Contexts that shape the axes: cells that they give at most, and cells and detected genes that they have at least.
MAX_CELLS, MIN_CELLS, MIN_GENES = {"counts": 1000, "means": 100}, 50, 4000


def gene_axes(corpus: AnnData, n_vectors: int, seed: int) -> torch.Tensor:
    """Principal axes of the corpus as gene vectors, (G, D): genes that vary together lie in similar directions.

    Axes of log expression standardised within each context, so that they separate cells, not studies.
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for rows in corpus.obs.groupby("sample", observed=True).indices.values():
        if (values := corpus.obs["values"].iloc[rows[0]]) not in MAX_CELLS:
            continue
        counts = corpus.X[np.sort(rng.permutation(rows)[: MAX_CELLS[values]])]
        if np.unique(counts.indices).size < MIN_GENES or len(rows) < MIN_CELLS:
            continue
        log = np.log1p(counts.multiply(1e4 / np.asarray(counts.sum(1)).clip(1)).toarray().astype(np.float32))
        spread = log.std(0)
        blocks.append(((log - log.mean(0)) / np.where(spread > 0, spread, 1)).clip(-10, 10))
    standardised = np.vstack(blocks)
    print(f"gene vectors from {len(standardised):,} cells of {len(blocks)} contexts")
    _, _, axes = randomized_svd(standardised, n_vectors, n_iter=4, random_state=seed)
    # All axes weigh the same; rare genes weigh more than common ones, though less than standardisation would have it.
    detected = np.asarray(corpus.X.astype(bool).mean(0)).ravel().clip(1e-4)
    vectors = axes.T / detected[:, None] ** 0.25
    return torch.from_numpy((SCALE * vectors / vectors.std()).astype(np.float32))
