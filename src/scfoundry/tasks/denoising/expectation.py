"""What a denoiser expects: shares of genes in a cell's counts, by a decoder and by the nearest cells."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.stats.dropout import MIN_GENES, SCALE, log_dropout_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.model._capabilities import PredictsRates, ReconstructsExpression

__all__ = [
    "N_NEIGHBORS",
    "Expectation",
    "expected_given_detection",
    "gene_rates",
    "hold_out",
    "reconstructed_rates",
]

# As many as smoothing over neighbours commonly takes.
N_NEIGHBORS = 50
# Among more cells than these, the nearest of a random subset are as good, and the search stays linear.
MAX_POOL = 20_000
# The rate below which an expected count given detection is 1 to single precision.
SMALLEST_RATE = 1e-6


def hold_out(
    counts: sparse.csr_matrix, share: float, rng: np.random.Generator, scale: float = SCALE
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    r"""Hide a share of every cell's non-zero counts (rounded down), low ones more often: what stays and what is hidden.

    Entries are drawn without replacement with probability proportional to :math:`\exp(-x / \text{scale})`, by the
    largest of these weights' Gumbel-perturbed logarithms: the distribution of `sf.pp.simulate_dropout`, for all cells
    at once.
    """
    n_expressed = np.diff(counts.indptr)
    rows = np.repeat(np.arange(counts.shape[0]), n_expressed)
    keys = rng.gumbel(size=counts.nnz) + log_dropout_weights(counts.data, scale)
    rank = np.empty(counts.nnz, dtype=np.int64)
    rank[np.lexsort((-keys, rows))] = np.arange(counts.nnz) - np.repeat(counts.indptr[:-1], n_expressed)
    n_hidden = np.where(n_expressed >= MIN_GENES, (share * n_expressed).astype(np.int64), 0)
    hidden = rank < n_hidden[rows]
    return _entries(counts, ~hidden), _entries(counts, hidden)


def _entries(counts: sparse.csr_matrix, chosen: NDArray[np.bool_]) -> sparse.csr_matrix:
    indptr = np.concatenate([[0], np.cumsum(chosen)])[counts.indptr]
    return sparse.csr_matrix((counts.data[chosen], counts.indices[chosen], indptr), shape=counts.shape)


def expected_given_detection(expected: Tensor) -> Tensor:
    r"""Expected counts of genes that are known to be detected.

    Of a Poisson variable with mean :math:`\mu`, :math:`E[x \mid x > 0] = \mu / (1 - e^{-\mu})`: at least 1.
    """
    rates = expected.clamp(min=SMALLEST_RATE)
    return rates / -torch.expm1(-rates)


def gene_rates(model: PredictsRates, latent: Tensor, genes: Tensor, log_offset: Tensor) -> Tensor:
    """Unscaled expected counts by a model's decoder, shifted by ``log_offset`` (g,) in logarithm, (n, g)."""
    return model.expected_rates(latent, genes) * log_offset.exp()


def reconstructed_rates(
    model: ReconstructsExpression, counts: sparse.csr_matrix, genes: NDArray[np.int64], compute: Compute
) -> Tensor:
    """Unscaled expected counts of genes by a model's reconstruction of log expression, (n, G) and (g,) to (n, g)."""
    log = model.reconstruct(log_cp10k(counts), compute)[:, genes]
    return torch.from_numpy(np.expm1(log.clip(min=0)) + SMALLEST_RATE).to(compute.device)


class Expectation:
    """Expected shares of genes in the counts of the cells of one context.

    Embedding (n, Z) of the cells, ``totals`` of their counts over the ``n_genes`` measured genes, (n,), and what reads
    these counts for some of the cells, (m,) to (m, g + h): those of h genes follow that the model does not know, of
    which the nearest cells alone tell, per count of the g others. No more cells are read than are neighbours of others.
    ``rates`` gives rates of the g genes for some of the cells, (m,) to (m, g), as a decoder does; `None` where there is
    none.
    """

    def __init__(
        self,
        latent: Tensor,
        totals: NDArray[np.float32],
        read: Callable[[NDArray[np.int64]], sparse.csr_matrix],
        n_genes: int,
        neighbor_weight: float,
        rates: Callable[[NDArray[np.int64]], Tensor] | None,
        *,
        n_others: int = 0,
    ) -> None:
        self.latent, self.totals, self.read, self.rates = latent, totals, read, rates
        self.n_genes, self.n_others, self.neighbor_weight = n_genes, n_others, neighbor_weight
        self.pool = np.flatnonzero(self.totals)
        if len(self.pool) > MAX_POOL:
            self.pool = np.sort(np.random.default_rng(0).choice(self.pool, MAX_POOL, replace=False))
        self.n_neighbors = min(N_NEIGHBORS, max(0, len(self.pool) - 1))

    @cached_property
    def profiles(self) -> sparse.csr_matrix:
        """Counts of the cells that may be neighbours, as shares of the g genes', (p, g + h)."""
        profiles = self.read(self.pool).astype(np.float32)
        profiles.data /= np.repeat(self.totals[self.pool], np.diff(profiles.indptr)).astype(np.float32)
        return profiles

    @torch.no_grad()
    def shares(self, cells: NDArray[np.int64]) -> Tensor:
        """Shares of some cells, (m, g + h): those of the g genes sum to 1."""
        if self.neighbor_weight == 0 and not self.n_others:
            return self.by_decoder(cells)
        shares = self.by_neighbors(cells)
        if self.neighbor_weight < 1 and self.rates is not None:
            of_genes = slice(self.n_genes)
            shares[:, of_genes] = torch.lerp(self.by_decoder(cells), shares[:, of_genes], self.neighbor_weight)
        return shares

    @torch.no_grad()
    def by_decoder(self, cells: NDArray[np.int64]) -> Tensor:
        """What the decoder makes of the cells, (m, g); the nearest cells where there is no decoder."""
        if self.rates is None:
            return self.by_neighbors(cells)[:, : self.n_genes]
        rates = self.rates(cells)
        return rates.div_(rates.sum(1, keepdim=True))

    @torch.no_grad()
    def by_neighbors(self, cells: NDArray[np.int64]) -> Tensor:
        """Mean shares of the nearest other cells in the latent, (m, g + h); of a cell that is alone, the decoder's.

        A cell that is alone keeps its own where there is no decoder, or of genes that it does not know.
        """
        pool, k = self.pool, self.n_neighbors
        if k == 0:
            own = np.asarray(self.profiles.sum(0), dtype=np.float32)
            shares = torch.from_numpy(own).to(self.latent.device).repeat(len(cells), 1)
            if self.rates is not None:
                shares[:, : self.n_genes] = self.by_decoder(cells)
            return shares
        wanted = torch.from_numpy(cells)
        distances = torch.cdist(self.latent[wanted], self.latent[torch.from_numpy(pool)])
        # A cell among its own neighbours would make its zeros likelier than they are.
        distances[torch.from_numpy(cells[:, None] == pool)] = torch.inf
        nearest = distances.topk(k, largest=False).indices.cpu().numpy()
        weights = sparse.csr_matrix(
            (np.full(nearest.size, 1 / k, dtype=np.float32), nearest.ravel(), np.arange(0, nearest.size + 1, k)),
            shape=(len(cells), len(pool)),
        )
        return torch.from_numpy((weights @ self.profiles).toarray()).to(self.latent.device)
