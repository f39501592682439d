"""Which genes are imputed, and which are hidden to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy import sparse

from scfoundry._arguments import quoted
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names
from scfoundry.data.genes.overlap import warn_of_few_shared
from scfoundry.stats.strata import ZERO_RATES, stratum_of
from scfoundry.tasks.imputation.evidence import OF_COUNTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells

__all__ = ["FurtherGenes", "genes_to_hide", "genes_to_impute"]

# As published for the evaluation: as many genes from each stratum of sparsity.
HIDDEN_PER_STRATUM = 25
MOST_HIDDEN = 0.2
MIN_HIDDEN = 5
MIN_COUNTS = 10
# Names of wrong genes in a message.
LISTED = 20


@dataclass(frozen=True)
class FurtherGenes:
    """Genes that a reference has and a model does not know, numbered after those of its vocabulary."""

    names: GeneVocabulary  # h
    columns: sparse.csr_matrix  # which columns of the reference hold them, (n_vars, h)
    start: int  # genes of the model

    @classmethod
    def of(cls, reference: Cells, vocabulary: GeneVocabulary) -> Self:
        """Genes of the columns that are left out, by their names; columns of one name are summed.

        Not of columns without a name, those named as another that the model reads, and old names of its genes.
        """
        alignment = reference.own.alignment
        names = alignment.names.astype(str)
        further = (alignment.target < 0) & (names != "") & ~np.isin(names, names[alignment.kept])
        further[alignment.superseded] = False
        columns = np.flatnonzero(further)
        ids, gene = np.unique(names[columns], return_inverse=True)
        shape = (len(names), len(ids))
        membership = sparse.csr_matrix((np.ones(len(columns), dtype=np.float32), (columns, gene)), shape=shape)
        return cls(GeneVocabulary(ids, species=vocabulary.species), membership, len(vocabulary))

    @property
    def positions(self) -> NDArray[np.int64]:
        """Numbers of the genes, (h,)."""
        return self.start + np.arange(len(self.names))

    def positions_of(self, names: NDArray[np.object_]) -> NDArray[np.int64]:
        """Number of the gene of every name, -1 where it is none of them."""
        found = match(self.names.index, names).target.astype(np.int64)
        return np.where(found >= 0, self.start + found, -1)


def genes_to_impute(
    spots: Cells,
    reference: Cells,
    genes: str | Sequence[str] | None,
    *,
    vocabulary: GeneVocabulary,
    further: FurtherGenes,
    evidence: Sequence[str],
    caller: str,
) -> dict[str, int]:
    """Names of the genes to impute, in the order asked for, and where they stand in vocabulary and ``further`` genes.

    If none are asked for: all genes of the reference that the spots lack, named as in the reference, and of which the
    kinds of ``evidence`` say something.

    Raises `ValueError` if the two data sets are of different species, share no gene, or one has no counts of those; if
    a gene is repeated, not in the reference, measured in the spots, or one that the evidence says nothing of; or if
    none is left.
    """
    in_spots, in_reference = spots.own.alignment, reference.own.alignment
    _check_shared(spots, reference, caller=caller)
    tells_of_unknown = bool(set(evidence).intersection(OF_COUNTS))
    measured = np.concatenate([in_spots.measured, further.positions_of(in_spots.names[in_spots.dropped])])
    if genes is None:
        known = np.setdiff1d(in_reference.measured, measured).astype(np.int64)
        others = np.setdiff1d(further.positions, measured) if tells_of_unknown else further.positions[:0]
        names = [*in_reference.names_of(known), *further.names.ids[others - further.start]]
        if not names:
            msg = (
                f"{caller}: the spots have every gene of the reference; there is nothing to impute. To see "
                f"how well it would go, leave genes out of the spots: {caller}(spots[:, ~held_out].copy(), reference)."
            )
            raise ValueError(msg)
        return dict(zip(names, [*known.tolist(), *others.tolist()], strict=True))
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    if not names:
        msg = f"{caller}: genes is empty. Name the genes to impute, or pass genes=None for all that the spots lack."
        raise ValueError(msg)
    # A few names do not tell their scheme; those of the reference do.
    kept = in_reference.kept
    spelled = dict(zip(in_reference.names[kept].tolist(), in_reference.target[kept].tolist(), strict=True))
    spelled |= dict(zip(further.names.ids.tolist(), further.positions.tolist(), strict=True))
    matched = match(vocabulary.index, as_names(names)).target
    matched = np.where(matched >= 0, matched, further.positions_of(as_names(names))).tolist()
    positions = np.array([spelled.get(n, p) for n, p in zip(names, matched, strict=True)], dtype=np.int64)
    found, times = np.unique(positions[positions >= 0], return_counts=True)
    keep_known = "genes = [gene for gene in genes if gene in adata_sc.var_names]"
    absent = ~np.isin(positions, [*in_reference.measured, *further.positions])
    wrong = {
        "neither in the reference nor known to the model": (positions < 0, keep_known),
        "not in the reference": (absent, keep_known),
        "measured in the spots already": (
            np.isin(positions, measured[measured >= 0]),
            "genes = [gene for gene in genes if gene not in adata_sp.var_names]",
        ),
        "named more than once": (np.isin(positions, found[times > 1]), "genes = list(dict.fromkeys(genes))"),
    }
    for why, (which, fix) in wrong.items():
        if which.any():
            bad = [name for name, is_bad in zip(names, which, strict=True) if is_bad]
            listed = quoted(bad, LISTED)
            msg = (
                f"{caller}: {len(bad)} of the {len(names)} genes to impute {'is' if len(bad) == 1 else 'are'} {why}: "
                f"{listed}. To leave them out: {fix}; genes=None takes all that can be imputed."
            )
            raise ValueError(msg)
    unknown = [name for name, position in zip(names, positions, strict=True) if position >= further.start]
    if unknown and not tells_of_unknown:
        msg = (
            f"{caller}: evidence={list(evidence)} says nothing of genes that the model does not know, as "
            f"{quoted(unknown[:LISTED])}. What a spot is composed of does: "
            f"evidence={['composition', *evidence]}."
        )
        raise ValueError(msg)
    return dict(zip(names, positions.tolist(), strict=True))


def _check_shared(spots: Cells, reference: Cells, *, caller: str) -> None:
    """Refuse data sets that have nothing in common to learn from."""
    in_spots, in_reference = spots.own.alignment, reference.own.alignment
    species = ["mouse" if one.scheme.startswith("mouse") else "human" for one in (in_spots, in_reference)]
    if species[0] != species[1]:
        msg = (
            f"{caller}: the spots are {species[0]} ({in_spots.scheme}) and the reference is {species[1]} "
            f"({in_reference.scheme}). Use a reference of the same species."
        )
        raise ValueError(msg)
    shared = np.intersect1d(in_spots.measured, in_reference.measured)
    if not len(shared):
        msg = (
            f"{caller}: spots and reference have no gene of the model in common: {in_spots.summary()} in the spots, "
            f"{in_reference.summary()} in the reference. Compare adata_sp.var_names with adata_sc.var_names."
        )
        raise ValueError(msg)
    smaller = min(len(in_spots.measured), len(in_reference.measured))
    warn_of_few_shared(len(shared), smaller, names=("adata_sp", "adata_sc"), caller=caller)
    for which, cells in (("spots have", spots), ("reference has", reference)):
        if not any(block.nnz for block in cells.only(shared).blocks()):
            msg = (
                f"{caller}: the {which} no count of the {len(shared):,} genes that both measured. Look at what was "
                "done to the matrix, or pass the layer with the counts: layer=..., reference_layer=...."
            )
            raise ValueError(msg)


def genes_to_hide(spots: Cells, shared: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Genes of the panel to hide, vocabulary positions, ascending: from all strata of sparsity, a fifth at most.

    Genes with fewer than 10 counts are not informative. Of a panel of fewer than 25 such genes none is hidden.
    """
    detected = np.zeros(len(shared))
    totals = np.zeros(len(shared))
    for block in spots.blocks():
        counts = block[:, shared]
        detected += np.bincount(counts.indices, minlength=len(shared))
        totals += np.asarray(counts.sum(0)).ravel()
    # A gene that every spot has belongs to the densest stratum.
    stratum = np.maximum(stratum_of(1 - detected / spots.n_obs), 0)
    rng = np.random.default_rng(seed)
    drawn = []
    for number in range(len(ZERO_RATES) - 1):
        members = shared[(stratum == number) & (totals >= MIN_COUNTS)]
        drawn.append(rng.permutation(members)[: min(HIDDEN_PER_STRATUM, int(MOST_HIDDEN * len(members)))])
    hidden = np.sort(np.concatenate(drawn)).astype(np.int64)
    return hidden if len(hidden) >= MIN_HIDDEN else hidden[:0]
