"""Which genes are imputed, and which are hidden to learn from."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names
from scfoundry.data.genes.overlap import warn_of_few_shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.genes.alignment import GeneAlignment
    from scfoundry.data.matrix.reader import CountsReader

__all__ = ["genes_to_hide", "genes_to_impute", "names_of"]

# As published for the evaluation: as many genes from each stratum of sparsity.
ZERO_RATES = (0.0, 0.75, 0.9, 0.95, 1.0)
HIDDEN_PER_STRATUM = 25
MOST_HIDDEN = 0.2
MIN_COUNTS = 10
CELLS_PER_BLOCK = 4096
# Names of wrong genes in a message.
LISTED = 20


def genes_to_impute(
    spots: CountsReader, cells: CountsReader, vocabulary: GeneVocabulary, genes: Sequence[str] | None, *, caller: str
) -> tuple[list[str], NDArray[np.int64]]:
    """Names and vocabulary positions of the genes to impute.

    Parameters
    ----------
    spots, cells
        Spatial data and reference.
    vocabulary
        Of the model.
    genes
        Names that were asked for, or one name; if `None`, all genes of the reference that the spots lack, named as
        there.
    caller
        The user's function, for messages.

    Raises
    ------
    ValueError
        If the two data sets are of different species, share no gene, or one has no counts of those; if a gene is
        repeated, unknown to the model, not in the reference, or measured in the spots; or if none is left.
    """
    here, there = spots.alignment, cells.alignment
    species = ["mouse" if side.scheme.startswith("mouse") else "human" for side in (here, there)]
    if species[0] != species[1]:
        msg = (
            f"{caller}: the spots are {species[0]} ({here.scheme}) and the reference is {species[1]} ({there.scheme}). "
            "Use a reference of the same species."
        )
        raise ValueError(msg)
    shared = np.intersect1d(here.measured, there.measured)
    if not len(shared):
        msg = (
            f"{caller}: spots and reference have no gene of the model in common: {here.summary()} in the spots, "
            f"{there.summary()} in the reference. Compare adata_sp.var_names with adata_sc.var_names."
        )
        raise ValueError(msg)
    smaller = min(len(here.measured), len(there.measured))
    warn_of_few_shared(len(shared), smaller, names=("adata_sp", "adata_sc"), caller=caller)
    for side, reader in (("spots have", spots), ("reference has", cells)):
        blocks = reader.only(shared).blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK)
        if not any(block.nnz for block in blocks):
            msg = (
                f"{caller}: the {side} no count of the {len(shared):,} genes that both measured. Look at what was done "
                "to the matrix, or pass the layer with the counts: layer=..., reference_layer=...."
            )
            raise ValueError(msg)
    if genes is None:
        positions = np.setdiff1d(there.measured, here.measured).astype(np.int64)
        if not len(positions):
            msg = f"{caller}: the spots have every gene that reference and model know; there is nothing to impute."
            raise ValueError(msg)
        return names_of(positions, there), positions
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    if not names:
        msg = f"{caller}: genes is empty. Name the genes to impute, or pass genes=None for all that the spots lack."
        raise ValueError(msg)
    positions = match(vocabulary.index, as_names(names)).target.astype(np.int64)
    # A few names do not tell their scheme; those of the reference do.
    as_there = dict(zip(there.names.tolist(), there.target.tolist(), strict=True))
    positions = np.array([as_there.get(n, p) for n, p in zip(names, positions.tolist(), strict=True)], dtype=np.int64)
    told = np.unique(positions[positions >= 0], return_counts=True)
    found_there = (
        'model = sf.model.load_pretrained("cellplm"); known = adata_sc.var_names[model.genes.align(adata_sc).kept]; '
        "genes = [gene for gene in genes if gene in known]"
    )
    wrong = {
        "unknown to the model": (positions < 0, found_there),
        "not in the reference": ((positions >= 0) & ~np.isin(positions, there.measured), found_there),
        "measured in the spots already": (
            np.isin(positions, here.measured),
            "genes = [gene for gene in genes if gene not in adata_sp.var_names]",
        ),
        "named more than once": (np.isin(positions, told[0][told[1] > 1]), "genes = list(dict.fromkeys(genes))"),
    }
    for why, (which, fix) in wrong.items():
        if which.any():
            bad = [name for name, is_bad in zip(names, which, strict=True) if is_bad]
            listed = ", ".join(map(repr, bad[:LISTED])) + (", ..." if len(bad) > LISTED else "")
            msg = (
                f"{caller}: {len(bad)} of the {len(names)} genes to impute {'is' if len(bad) == 1 else 'are'} {why}: "
                f"{listed}. To leave them out: {fix}; genes=None takes all that can be imputed."
            )
            raise ValueError(msg)
    return names, positions


def names_of(positions: NDArray[np.int64], alignment: GeneAlignment) -> list[str]:
    """What a data set calls genes that it measured; the first of several columns of a gene."""
    measured, first = np.unique(alignment.target, return_index=True)
    return [str(name) for name in alignment.names[first[np.searchsorted(measured, positions)]]]


def genes_to_hide(spots: CountsReader, shared: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """Genes of the panel to hide, vocabulary positions, ascending: from all strata of sparsity, a fifth at most.

    Genes with fewer than 10 counts could tell nothing. Of a panel of fewer than 25 such genes none is hidden.
    """
    detected = np.zeros(len(shared))
    totals = np.zeros(len(shared))
    for block in spots.blocks(np.arange(spots.n_obs), CELLS_PER_BLOCK):
        counts = block[:, shared]
        detected += np.bincount(counts.indices, minlength=len(shared))
        totals += np.asarray(counts.sum(0)).ravel()
    zero_rate = 1 - detected / spots.n_obs
    rng = np.random.default_rng(seed)
    drawn = []
    for low, high in pairwise(ZERO_RATES):
        within = (zero_rate > low) if low else (zero_rate >= low)
        members = shared[within & (zero_rate <= high) & (totals >= MIN_COUNTS)]
        drawn.append(rng.permutation(members)[: min(HIDDEN_PER_STRATUM, int(MOST_HIDDEN * len(members)))])
    hidden = np.sort(np.concatenate(drawn)).astype(np.int64)
    return hidden if len(hidden) >= len(ZERO_RATES) else hidden[:0]
