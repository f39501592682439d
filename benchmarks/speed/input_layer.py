"""From sparse counts to cell vectors: gathering the vectors of detected genes against dense products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_matrix

    from benchmarks.speed.clock import Clock
    from scfoundry.model.cellplm._module import GeneEmbedder

__all__ = ["time_input_layer"]

TOLERANCE = 1e-4


def time_input_layer(
    embedder: GeneEmbedder, counts: csr_matrix, measured: np.ndarray, clock: Clock, *, chunk: int, repeats: int
) -> dict[str, float]:
    """Seconds for one chunk of log expression, three ways that give the same numbers.

    Parameters
    ----------
    embedder
        Holds the vectors of the vocabulary's genes, (G, D).
    counts
        (n, G).
    measured
        Positions of the genes that were measured, (g,).
    clock, repeats
        How to time.
    chunk
        Cells.
    """
    rows = counts[:chunk]
    expression = SparseCounts.from_csr(rows).log_normalised("none")
    table, columns = embedder.genes, torch.from_numpy(measured)
    narrow = SparseCounts.from_csr(rows[:, measured]).log_normalised("none")

    def densify(sparse_counts: SparseCounts) -> torch.Tensor:
        dense = torch.zeros(sparse_counts.n_cells, sparse_counts.n_genes)
        dense[sparse_counts.rows, sparse_counts.genes] = sparse_counts.values
        return dense

    work = {
        "embedding_bag": lambda: embedder.aggregate(expression),
        "densify the measured genes": lambda: densify(narrow) @ table[columns],
        "densify the vocabulary": lambda: densify(expression) @ table,
    }
    results = [run() for run in work.values()]
    worst = max(float((result - results[0]).abs().max()) for result in results)
    if worst > TOLERANCE:
        msg = f"The input layers disagree by {worst:.1e}; they must compute the same sums."
        raise AssertionError(msg)
    return clock.best(work, repeats)
