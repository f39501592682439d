"""Sums over groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["membership"]


def membership(codes: NDArray[np.integer], n_groups: int) -> sparse.csr_matrix:
    """Which of n rows is in which group, (n_groups, n): its product with values (n, ...) sums them by group."""
    return sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(n_groups, len(codes)))
