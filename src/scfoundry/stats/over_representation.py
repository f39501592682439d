"""Over-representation of sets among groups of genes: the hypergeometric test (Rivals et al. 2007)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import false_discovery_control, hypergeom

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["over_representation"]


class OverRepresentation(NamedTuple):
    """Tests of P groups against S sets, (P, S) each."""

    overlap: NDArray[np.int64]  # genes of the group in the set
    fold: NDArray[np.float64]  # overlap over what is expected of a group drawn at random; NaN where either is empty
    p_values: NDArray[np.float64]
    q_values: NDArray[np.float64]  # p values adjusted for all P x S tests (Benjamini and Hochberg 1995)


def over_representation(groups: NDArray[np.bool_], sets: NDArray[np.bool_]) -> OverRepresentation:
    r"""Test whether groups hold more genes of sets than as many genes drawn at random from the background.

    Of N background genes n are in the group, K in the set and k in both: :math:`p = P(X \geq k)` with X of the
    hypergeometric distribution.

    ``groups``: which of the background genes are in each group, (P, N). ``sets``: the same of the sets, (S, N).
    """
    n_genes = groups.shape[1]
    overlap = groups.astype(np.int64) @ sets.T.astype(np.int64)
    n_group, n_set = groups.sum(1)[:, None], sets.sum(1)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        fold = overlap * n_genes / (n_group * n_set)
    p_values = hypergeom.sf(overlap - 1, n_genes, n_set, n_group)
    # Rounding may leave the certain event a little above 1.
    p_values = np.clip(p_values, 0, 1)
    q_values = false_discovery_control(p_values.ravel()).reshape(p_values.shape) if p_values.size else p_values
    return OverRepresentation(overlap, fold, p_values, q_values)
