"""What the numbers of a matrix may be: whatever means real numbers, in whichever form it came."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["as_real_numbers"]

# Kind of a numpy type -> why its values are no counts.
STRANGE = {"c": "complex numbers", "M": "dates", "m": "durations", "U": "text", "S": "bytes", "V": "records"}
REAL = "biuf"
# Types that scipy or numba do not take -> those that hold the same values, or those of half as many digits.
WIDTHS = {"b1": "u1", "f2": "f4", "f12": "f8", "f16": "f8"}


def as_real_numbers(values: Any) -> Any:
    """A dense array or a sparse matrix in a type that scipy's sparse matrices and numba's kernels take.

    Real numbers of another byte order or width (half and long double precision), of Python objects, or in memory that
    may not be written to become native ones of at most 64 bits. ValueError: for anything else.
    """
    if not sparse.issparse(values):
        return _plain(np.asarray(values))
    data = _plain(values.data)
    if data.dtype == values.data.dtype:
        return values
    return type(values)((data, values.indices, values.indptr), shape=values.shape, copy=False)


def _plain(values: np.ndarray) -> np.ndarray:
    kind = values.dtype.kind
    if kind == "O":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            values = values.astype(str)
        kind = values.dtype.kind
    if kind not in REAL:
        msg = (
            f"The matrix holds {STRANGE.get(kind, values.dtype)}, not real numbers (type {values.dtype}). Convert it: "
            "adata.X = adata.X.astype('float32'), or start from the count matrix."
        )
        raise ValueError(msg)
    return values.astype(np.dtype(WIDTHS.get(values.dtype.str[1:], values.dtype.newbyteorder("="))), copy=False)
