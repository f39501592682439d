"""Genes of groups in the order of their attention, and whether other groups attend to them less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import false_discovery_control, ttest_ind_from_stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry.tasks.gene_attention.moments import Moments

__all__ = ["GeneRanking", "RankBy", "rank_genes"]

RankBy = Literal["attention", "difference"]


@dataclass(frozen=True)
class GeneRanking:
    """All genes of P groups, compared with the other groups together; (P, G) each, NaN where too few cells were read.

    P values are those of Welch's t-test between cells that read the gene, adjusted within every group for all genes
    that were tested (Benjamini and Hochberg 1995).
    """

    attention: NDArray[np.float64]  # mean over cells of the group, 1 is that of the mean gene of a cell
    statistic: NDArray[np.float64]  # t, above 0 where the group attends to the gene more than the others do
    log2_ratio: NDArray[np.float64]  # of the mean of the group and that of the others
    p_values: NDArray[np.float64]
    q_values: NDArray[np.float64]

    def order(self, by: RankBy) -> list[NDArray[np.int64]]:
        """Numbers of the genes of every group from the highest down; of equal ones the first, NaN last.

        Compared in single precision: what the order of summation leaves below plays no part.
        """
        scores = (self.attention if by == "attention" else self.statistic).astype(np.float32)
        return [np.argsort(-of_group, kind="stable") for of_group in scores]


def rank_genes(moments: Moments, *, min_cells: int) -> GeneRanking:
    """Compare every group with the rest, by genes that at least ``min_cells`` cells of the group have."""
    rest = moments.of_rest()
    own, other = moments.mean(min_cells), rest.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic, p_values = ttest_ind_from_stats(
            own, moments.deviation(), moments.n_cells, other, rest.deviation(), rest.n_cells, equal_var=False
        )
        log2_ratio = np.log2(own / other)
    q_values = np.full(p_values.shape, np.nan)
    for p, q in zip(p_values, q_values, strict=True):
        tested = np.isfinite(p)
        q[tested] = false_discovery_control(p[tested]) if tested.any() else p[tested]
    return GeneRanking(own, statistic, log2_ratio, p_values, q_values)
