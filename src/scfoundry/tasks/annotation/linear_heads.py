"""Linear heads on one kind of evidence: the embedding of a cell, or the log expression of single genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from scipy import sparse

from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.data.matrix.parts import over_parts
from scfoundry.stats.splits import at_most
from scfoundry.tasks.annotation.head_fit import fit_head

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.reader import Reader
    from scfoundry.nn.label_loss import LabelLoss

__all__ = ["EmbeddingHead", "GeneHead"]

# Chosen on splits by donor, stimulation, protocol and tissue section, none of which is a split of the benchmark.
EMBEDDING_RIDGE, GENE_RIDGE = 10.0, 0.001
# Genes that hardly vary are not blown up.
MIN_LATENT_SCALE, MIN_GENE_VARIANCE = 1e-3, 1.0
# What rounding leaves of the variance of a gene that does not vary.
ROUNDING = 1e-9
# Cells that a head is fitted to at most, and that are read at a time.
MAX_CELLS, CELLS_PER_BLOCK = 50_000, 4096


class EmbeddingHead(NamedTuple):
    """Softmax regression on standardised embeddings."""

    mean: NDArray[np.float64]  # of the reference, (Z,)
    scale: NDArray[np.float64]  # of the reference, (Z,)
    weights: NDArray[np.float64]  # (Z, L)
    bias: NDArray[np.float64]  # (L,)

    @classmethod
    def fit(
        cls,
        latent: NDArray[np.float32],
        codes: NDArray[np.int64],
        rows: NDArray[np.int64],
        loss: LabelLoss,
        rng: np.random.Generator,
    ) -> Self:
        """Fit to the embeddings (n, Z) of the cells in some rows."""
        drawn = at_most(MAX_CELLS, codes, rows, rng)
        sample = latent[drawn].astype(np.float64)
        mean, scale = sample.mean(0), sample.std(0) + MIN_LATENT_SCALE
        weights, bias = fit_head(
            (sample - mean) / scale, codes[drawn], int(codes.max()) + 1, loss, rng, ridge=EMBEDDING_RIDGE
        )
        return cls(mean, scale, weights, bias + frequency_lost(codes, rows, drawn, loss))

    def logits(self, latent: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits of the labels, (n, L)."""
        return (latent - self.mean) / self.scale @ self.weights + self.bias


class GeneHead(NamedTuple):
    """Softmax regression on log1p of counts per 10,000."""

    genes: NDArray[np.int64]  # vocabulary positions, ascending, (g,)
    mean: NDArray[np.float64]  # log expression in the reference, (g,)
    weights: NDArray[np.float64]  # (g, L)
    bias: NDArray[np.float64]  # (L,)

    @classmethod
    def fit(
        cls,
        cells: Cells,
        genes: NDArray[np.int64],
        codes: NDArray[np.int64],
        rows: NDArray[np.int64],
        loss: LabelLoss,
        rng: np.random.Generator,
    ) -> Self:
        """Fit to the cells in some rows, by ``genes`` alone."""
        drawn = at_most(MAX_CELLS, codes, rows, rng)
        # Cells are read as they lie, which is fast on disk, and learned by name: their order plays no part.
        as_they_lie = np.argsort(drawn)
        blocks = [log_cp10k(block)[:, genes] for block in cells.blocks(rows=drawn[as_they_lie])]
        expression = sparse.csr_matrix(sparse.vstack(blocks, format="csr")[np.argsort(as_they_lie)])
        mean = np.asarray(expression.mean(0)).ravel()
        variance = np.asarray(expression.multiply(expression).mean(0)).ravel() - mean**2
        # Centring would only move the bias.
        scale = np.where(variance > ROUNDING, 1 / np.sqrt(variance.clip(0) + MIN_GENE_VARIANCE), 0)
        features = sparse.csr_matrix(expression @ sparse.diags(scale).tocsr())
        weights, bias = fit_head(features, codes[drawn], int(codes.max()) + 1, loss, rng, ridge=GENE_RIDGE)
        return cls(genes, mean, weights * scale[:, None], bias + frequency_lost(codes, rows, drawn, loss))

    def logits(self, cells: Cells) -> NDArray[np.float64]:
        """Logits of the labels, (n_obs, L). A gene that was not measured counts as one at its mean."""
        absent = ~np.isin(self.genes, cells.measured)
        of_cells = over_parts(_weighted, cells.reader, self.genes, self.weights)
        return np.concatenate(list(of_cells)) + (self.bias + self.mean[absent] @ self.weights[absent])


def _weighted(reader: Reader, genes: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log expression of genes times their weights, (n, L)."""
    blocks = reader.blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK)
    return np.concatenate([log_cp10k(block)[:, genes] @ weights for block in blocks])


def frequency_lost(
    codes: NDArray[np.int64], rows: NDArray[np.int64], drawn: NDArray[np.int64], loss: LabelLoss
) -> NDArray[np.float64]:
    """Logits (L,) by which a label is more frequent among all rows than among those drawn; 0 if the loss knew sizes."""
    if loss.loss.prior:
        return np.zeros(codes.max() + 1)
    everything, sample = (np.bincount(codes[part], minlength=codes.max() + 1) / len(part) for part in (rows, drawn))
    return np.log(everything / sample)
