r"""What a spot is made of: cell states of a reference, mixed so that the measured counts become most likely.

The counts of spot i are Poisson with mean :math:`L_i \sum_k h_{ik} w_{kj}`: a convex mixture of the profiles of states.
A spot holds several cells, and their counts add up; so do the profiles, which no point of a latent space does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from sklearn.cluster import MiniBatchKMeans
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.data.slots import refuse_not_finite
from scfoundry.model._capabilities import PredictsRates, can
from scfoundry.stats.groups import membership

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import Embeds

__all__ = ["CELLS_PER_BLOCK", "States", "by_block", "compositions", "find_states"]

CELLS_PER_BLOCK = 256
MIN_STATES, MAX_STATES = 8, 200
# Counts at which the cells of a state and the prior weigh the same in its profile.
PRIOR_COUNTS = 2000
# Neighbouring spots weigh as much as this many counts of a spot's own.
NEIGHBOR_COUNTS = 100
FIRST_STEPS, LATER_STEPS, ROUNDS = 30, 12, 2
TINY = 1e-12


def by_block(cells: Cells) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Where the cells of every block stand, and their counts."""
    start = 0
    for counts in cells.blocks(CELLS_PER_BLOCK):
        yield slice(start, start + counts.shape[0]), counts
        start += counts.shape[0]


@dataclass(frozen=True)
class States:
    """Cell states of a reference."""

    profiles: NDArray[np.float32]  # share of every gene in the counts of a state, (K, g)
    genes: NDArray[np.int64]  # vocabulary positions of the genes measured in the reference, ascending, (g,)
    measured: States | None = None  # by counts alone, without a decoder, and of genes that the model does not know, too

    def of(self, genes: NDArray[np.int64], panel: NDArray[np.int64]) -> NDArray[np.float32]:
        """Counts of ``genes`` per count of the ``panel``, (K, len(genes)); all measured in the reference."""
        total = self.profiles[:, np.searchsorted(self.genes, panel)].sum(1, keepdims=True)
        return self.profiles[:, np.searchsorted(self.genes, genes)] / np.maximum(total, TINY)


def find_states(
    model: Embeds, reference: Cells, further: sparse.csr_matrix | None = None, *, seed: int, compute: Compute
) -> States:
    r"""Divide reference cells into states by their latent, and estimate the profile of each.

    There are :math:`\sqrt{m}` states for m cells, between 8 and 200. The profile is the posterior mean of Poisson
    counts. Its prior is what the decoder expects of the state's mean latent, brought to the level of every gene in the
    reference, or the mean profile of the reference if the model has no decoder: rare states and genes lean on the
    prior, common ones on their own cells.

    ``further`` says which columns of the reference hold which gene that the model does not know, (n_vars, h). These
    follow the vocabulary in the profiles by counts alone, whose prior is the mean profile of the reference.
    """
    genes = reference.measured
    latent = model.embed(reference, compute)
    refuse_not_finite(latent, "the embedding", caller="impute_spatial")
    n_states = min(max(MIN_STATES, round(np.sqrt(len(latent)))), MAX_STATES, len(latent))
    division = MiniBatchKMeans(n_states, batch_size=4096, n_init=3, random_state=seed).fit(latent[reference.by_name])
    state = division.predict(latent)
    counts = np.zeros((n_states, len(genes)))
    for rows, block in by_block(reference):
        counts += (membership(state[rows], n_states) @ block[:, genes]).toarray()
    occupied = counts.sum(1) > 0
    centres = division.cluster_centers_[occupied].astype(np.float32)
    measured = None if further is None else _measured(reference, state, counts, further, occupied)
    counts = counts[occupied]
    totals = counts.sum(1, keepdims=True)
    level = counts.sum(0) / totals.sum()  # share of every gene in the reference
    expected = level
    if can(model, PredictsRates):
        expected = decoded_shares(model, centres, genes, compute)
        weights = totals[:, 0] / totals.sum()
        expected = expected * (level / np.maximum(weights @ expected, TINY))
    profiles = (counts + PRIOR_COUNTS * expected) / (totals + PRIOR_COUNTS)
    return States((profiles / profiles.sum(1, keepdims=True)).astype(np.float32), genes, measured)


def _measured(
    reference: Cells,
    state: NDArray[np.integer],
    counts: NDArray[np.float64],
    further: sparse.csr_matrix,
    occupied: NDArray[np.bool_],
) -> States:
    """Profiles by counts alone, per count of genes that the model knows: of these (K, g), then of ``further`` ones."""
    n_states, genes = len(counts), reference.measured
    beside = np.zeros((n_states, further.shape[1]))
    for rows, block in reference.own.own_blocks(np.arange(reference.n_obs)):
        beside += (membership(state[rows], n_states) @ block @ further).toarray()
    totals = counts[occupied].sum(1, keepdims=True)
    every = np.hstack([counts, beside])[occupied]
    profiles = (every + PRIOR_COUNTS * every.sum(0) / totals.sum()) / (totals + PRIOR_COUNTS)
    after = reference.own.alignment.n_vocabulary + np.arange(further.shape[1])
    return States(profiles.astype(np.float32), np.concatenate([genes, after]))


@torch.no_grad()
def decoded_shares(
    model: Any, latent: NDArray[np.float32], genes: NDArray[np.int64], compute: Compute
) -> NDArray[np.float32]:
    """What share of a cell's counts the decoder expects of every gene, (n, g)."""
    rates = model.expected_rates(
        torch.from_numpy(latent).to(compute.device), torch.from_numpy(genes).to(compute.device)
    )
    return (rates / rates.sum(1, keepdim=True).clamp(min=TINY)).cpu().numpy()


def compositions(
    spots: Cells, states: States, panel: NDArray[np.int64], neighbors: sparse.csr_matrix | None
) -> NDArray[np.float32]:
    r"""Share of every state in every spot by genes of the ``panel``, (n, K); equal shares for a spot without counts.

    Expectation maximisation from equal shares,
    :math:`h_{ik} \propto h_{ik} \sum_j w_{kj}\, x_{ij} / \sum_l h_{il} w_{lj} + a\, \bar h_{ik}`, stopped early;
    after a first fit the mean composition :math:`\bar h` of the neighbourhood, by the average ``neighbors`` (n, n),
    counts like a = 100 further counts.
    """
    profiles = np.ascontiguousarray(states.of(panel, panel).T)  # (g, K)
    shares = np.full((spots.n_obs, profiles.shape[1]), 1 / profiles.shape[1], dtype=np.float32)
    rounds = [FIRST_STEPS] if neighbors is None else [FIRST_STEPS, *[LATER_STEPS] * ROUNDS]
    bar = tqdm(desc="composition", total=spots.n_obs * len(rounds), unit="spot", disable=not settings.show_progress)
    with bar:
        for i, n_steps in enumerate(rounds):
            pull = NEIGHBOR_COUNTS * (neighbors @ shares) if neighbors is not None and i else None
            for rows, counts in by_block(spots):
                own = None if pull is None else pull[rows]
                shares[rows] = _maximised(counts[:, panel], profiles, shares[rows], own, n_steps)
                bar.update(counts.shape[0])
    return shares


def _maximised(
    counts: sparse.csr_matrix,
    profiles: NDArray[np.float32],
    shares: NDArray[np.float32],
    pull: NDArray[np.float32] | None,
    n_steps: int,
) -> NDArray[np.float32]:
    """Shares after some steps; detected genes alone count, as zeros say the same of all mixtures."""
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    for _ in range(n_steps):
        # One product of all spots and genes takes a fraction of the time of products at the detected ones alone.
        expected = (shares @ profiles.T)[rows, counts.indices] + TINY
        ratio = sparse.csr_matrix((counts.data / expected, counts.indices, counts.indptr), shape=counts.shape)
        shares = shares * (ratio @ profiles)
        if pull is not None:
            shares = shares + pull
        total = shares.sum(1, keepdims=True)
        shares = np.where(total > 0, shares / np.maximum(total, TINY), np.float32(1 / shares.shape[1]))
    return shares
