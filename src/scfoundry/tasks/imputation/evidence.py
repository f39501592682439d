"""Evidence of library, composition, gene vectors and decoder for genes that a panel lacks."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from scfoundry._arguments import quoted
from scfoundry.data.matrix.spatial_neighbors import neighbor_average
from scfoundry.model._capabilities import HasGeneVectors, PredictsRates, can
from scfoundry.tasks.imputation.composition import CELLS_PER_BLOCK, States, compositions
from scfoundry.tasks.imputation.gene_kriging import gene_directions, unit_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import Embeds

__all__ = ["EVIDENCE", "OF_COUNTS", "Evidence", "choose_evidence"]

EVIDENCE = ("library", "composition", "gene_vectors", "decoder")
CAPABILITIES = {"gene_vectors": HasGeneVectors, "decoder": PredictsRates}
# Kinds that need no gene known to the model.
OF_COUNTS = tuple(kind for kind in EVIDENCE if kind not in CAPABILITIES)
TINY = 1e-9


def choose_evidence(
    model: Embeds, wanted: Sequence[str] | None, *, caller: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Kinds of evidence to use, all that the model has if none are ``wanted``, and those that it does not have.

    Raises `ValueError` if a kind is unknown, or wanted where the model does not have it.
    """
    lacking = tuple(kind for kind, capability in CAPABILITIES.items() if not can(model, capability))
    available = tuple(kind for kind in EVIDENCE if kind not in lacking)
    if wanted is None:
        return available, lacking
    if isinstance(wanted, str):
        msg = f"{caller}: evidence is a list of kinds; got the text {wanted!r}. Pass evidence=[{wanted!r}]."
        raise ValueError(msg)
    if not len(wanted) or not set(wanted) <= set(EVIDENCE):
        msg = f"{caller}: evidence must be some of {quoted(EVIDENCE)}; got {tuple(wanted)}."
        raise ValueError(msg)
    if missing := [kind for kind in lacking if kind in wanted]:
        msg = (
            f"{caller}: evidence {quoted(missing)} was asked for, but the weights "
            f"{model.provenance['weights']!r} of {type(model).__name__} do not have it. "
            f"All that they have: evidence={list(available)}."
        )
        raise ValueError(msg)
    return tuple(kind for kind in EVIDENCE if kind in wanted), lacking


class Evidence:
    """Evidence for every gene in every spot, once what it rests on has been found.

    Only the genes of the ``panel`` are looked at in the spots; ``used`` are the kinds of `EVIDENCE` that are wanted,
    (E,).
    """

    model: Any
    states: States

    def __init__(
        self,
        model: Embeds,
        spots: Cells,
        states: States,
        panel: NDArray[np.int64],
        used: NDArray[np.bool_],
        compute: Compute,
    ) -> None:
        self.model, self.states, self.used, self.compute = model, states, used, compute
        self.shared = np.intersect1d(panel, states.genes)
        self.library = library_of(spots, panel)
        self.shared_library = library_of(spots, self.shared)
        neighbors = neighbor_average(spots.contexts, spots.coordinates, spots.n_obs) if spots.coordinates else None
        self.shares = compositions(spots, states, self.shared, neighbors)
        if self.uses("gene_vectors"):
            self.vectors = unit_vectors(self.model.gene_vectors())
            self.directions = gene_directions(spots, self.vectors, panel, neighbors)
        if self.uses("decoder"):
            self.latent = self.model.embed(spots.only(panel), compute)
            self.decoded_panel = self._decoded(self.shared, slice(None), total=True)

    def by_counts(self, measured: States, used: NDArray[np.bool_]) -> Self:
        """The same with profiles by counts alone, for genes that the model does not know; ``used`` of `OF_COUNTS`."""
        alone = copy.copy(self)
        alone.states, alone.used = measured, used
        return alone

    def uses(self, kind: str) -> bool:
        """Whether a kind of evidence is wanted."""
        return bool(self.used[EVIDENCE.index(kind)])

    def of(
        self, genes: NDArray[np.int64], spots: NDArray[np.int64] | slice = slice(None)
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log evidence of some spots, (E, n, g), 0 for kinds that are not used.

        And the mean count of every gene that their composition lets expect, (g,).
        """
        mixed = self.shares[spots] @ self.states.of(genes, self.shared)  # (n, K) @ (K, g)
        levels = (mixed * self.shared_library[spots, None]).mean(0)
        found = np.zeros((len(EVIDENCE), *mixed.shape), dtype=np.float32)
        if self.uses("library"):
            found[0] = np.log(np.maximum(self.library[spots], 1))[:, None]
        if self.uses("composition"):
            found[1] = centred(np.log(np.maximum(mixed, TINY)))
        if self.uses("gene_vectors"):
            found[2] = centred(self.directions[spots] @ self.vectors[genes].T)
        if self.uses("decoder"):
            per_count = self._decoded(genes, spots) / self.decoded_panel[spots]
            found[3] = centred(np.log(np.maximum(per_count, TINY)))
        return found, levels

    @torch.no_grad()
    def _decoded(
        self, genes: NDArray[np.int64], spots: NDArray[np.int64] | slice, *, total: bool = False
    ) -> NDArray[np.float32]:
        """Unscaled rates of genes by the decoder, (n, g), or their total, (n, 1)."""
        device = self.compute.device
        positions = torch.from_numpy(genes).to(device)
        parts = []
        for latent in torch.from_numpy(self.latent[spots]).split(CELLS_PER_BLOCK):
            rates = self.model.expected_rates(latent.to(device), positions)
            parts.append((rates.sum(1, keepdim=True) if total else rates).cpu().numpy())
        return np.concatenate(parts)


def library_of(cells: Cells, genes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Counts of some genes in every cell, (n,)."""
    return np.concatenate([np.ravel(block[:, genes].sum(1)) for block in cells.blocks(CELLS_PER_BLOCK)])


def centred(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Relative to the mean over spots, (n, g)."""
    return values - values.mean(0)
