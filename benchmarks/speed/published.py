"""CellPLM at its published size with random weights, and counts as sparse as real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
from scipy import sparse

import scfoundry as sf
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scipy.sparse import csr_matrix
    from torch import Tensor

    from scfoundry.model import CellPLM
    from scfoundry.model.cellplm._config import CellPLMConfig

__all__ = ["N_CELLS", "N_MEASURED", "N_VOCABULARY", "aligned_counts", "chunks_of", "flops", "published_model"]

N_CELLS = 6855
N_MEASURED = 4000
N_VOCABULARY = 19_374
# Genes detected per cell in 10x PBMC data over 4,000 variable genes.
DETECTED = 367


def published_model() -> CellPLM:
    """The released structure: width 1024, 4 layers, 8 heads, latent 512, one Gaussian."""
    return sf.model.CellPLM(
        genes=sf.datasets.human_genes().index[:N_VOCABULARY].tolist(),
        n_hidden=1024,
        n_layers=4,
        n_heads=8,
        latent="vae",
        n_latent=512,
        n_decoder_hidden=1024,
        n_batches=8,
        positions="none",
        library_size="none",
    )


def aligned_counts(n_cells: int = N_CELLS, path: Path | None = None) -> tuple[csr_matrix, np.ndarray]:
    """Counts over the vocabulary, (n, G), and the positions of the measured genes.

    Parameters
    ----------
    n_cells
        Synthetic cells, if there is no file. Few genes are detected in most cells and most genes in few, as in data.
    path
        An ``.h5ad`` file with raw counts. Its genes take random places in the vocabulary.
    """
    rng = np.random.default_rng(0)
    if path is not None:
        counts = sparse.csr_matrix(ad.read_h5ad(path).X).astype(np.float32)
    else:
        detection = rng.lognormal(sigma=1.5, size=N_MEASURED)
        for _ in range(20):  # rescaling after the cut at 1 converges to the mean wanted
            detection = np.minimum(detection * DETECTED / detection.sum(), 1.0)
        counts = sparse.vstack(
            [
                sparse.csr_matrix(rng.random((min(1024, n_cells - start), N_MEASURED)) < detection, dtype=np.float32)
                for start in range(0, n_cells, 1024)
            ],
            format="csr",
        )
        counts.data = rng.geometric(0.4, counts.nnz).astype(np.float32)
    measured = np.sort(rng.choice(N_VOCABULARY, counts.shape[1], replace=False))
    shape = (counts.shape[0], N_VOCABULARY)
    return sparse.csr_matrix((counts.data, measured[counts.indices], counts.indptr), shape=shape), measured


def chunks_of(counts: csr_matrix, size: int) -> Iterator[tuple[SparseCounts, Tensor | None]]:
    """Chunks without coordinates, as `stream_embeddings` reads them."""
    for start in range(0, counts.shape[0], size):
        yield SparseCounts.from_csr(counts[start : start + size]), None


def flops(config: CellPLMConfig, n_cells: int, n_stored: int) -> int:
    """Floating point operations of the matrix products and the weighted gene sums; nothing else is counted."""
    d, z = config.n_hidden, config.n_latent
    attention = 2 * d * (d // config.n_heads)  # k^T v, and q times the summary
    per_cell = d * d + config.n_layers * (3 * d * d + attention + d * d + 4 * d * d) + d * z
    return 2 * (n_cells * per_cell + n_stored * d)
