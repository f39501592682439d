"""Log expression on the scale that the field compares cells on: log1p of counts per 10,000."""

from __future__ import annotations

import numpy as np
from scipy import sparse

__all__ = ["TARGET_SUM", "log_cp10k"]

TARGET_SUM = 1e4


def log_cp10k(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Log1p of counts per 10,000, in double precision; a cell without counts stays empty."""
    log = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    totals = np.asarray(log.sum(1)).ravel()
    log.data = np.log1p(log.data * np.repeat(TARGET_SUM / np.where(totals == 0, 1, totals), np.diff(log.indptr)))
    return log
