"""One look at every value of some cells, compiled by numba when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32] | NDArray[np.float64]
    Linear = NDArray[np.float64]
    Starts = NDArray[np.int64]
    Marks = NDArray[np.bool_]

__all__ = ["FRACTION", "INFINITE", "NAN", "NEGATIVE", "STORED", "look", "near_integers"]

NAN, INFINITE, NEGATIVE, STORED, FRACTION = range(5)
"""What `look` counts: NaN, infinite, negative values, those that are finite and not zero, those of them that are no
integers."""


@compiled
def look(
    first: int,
    last: int,
    values: Values,
    indptr: Starts,
    totals: Linear,
    empty: Marks,
    fractional: Marks,
    counts: Starts,
) -> float:
    """Count values of each kind in the cells from `first` up to `last`.

    Filled are the total of every cell, whether it is empty, and whether it has fractions; threads may look at different
    cells at once, each with ``counts`` of its own. Returned is the largest value, 0 at least. NaN and infinite values
    count as zeros.
    """
    largest = 0.0
    for cell in range(first, last):
        total, n_stored, n_fractions = 0.0, 0, 0
        for j in range(indptr[cell], indptr[cell + 1]):
            value = values[j]
            if not np.isfinite(value):
                counts[NAN if np.isnan(value) else INFINITE] += 1
                continue
            n_stored += value != 0
            n_fractions += value != np.floor(value)
            counts[NEGATIVE] += value < 0
            largest = max(largest, value)
            total += value
        totals[cell], empty[cell], fractional[cell] = total, n_stored == 0, n_fractions > 0
        counts[STORED] += n_stored
        counts[FRACTION] += n_fractions
    return largest


@compiled
def near_integers(linear: Linear, indptr: Starts, fractional: Marks, found: Linear) -> None:
    """Ratios of values to the smallest of their cell, in cells with ``fractional`` values: are they integers?

    ``found`` is brought up to date: the number of ratios from 1.5 to 50, how many are within 0.02 of an integer, the
    lowest and the highest total, and near how many different integers those of a cell are, at most. The smallest value
    itself says nothing, and far up rounding blurs what is an integer.
    """
    seen = np.full(51, -1, np.int64)
    for cell in range(len(indptr) - 1):
        if not fractional[cell]:
            continue
        different = 0
        smallest, total = np.inf, 0.0
        for j in range(indptr[cell], indptr[cell + 1]):
            value = linear[j]
            total += value
            if value != 0:
                smallest = min(smallest, value)
        for j in range(indptr[cell], indptr[cell + 1]):
            ratio = linear[j] / smallest
            if 1.5 < ratio < 50:
                found[0] += 1
                if abs(ratio - np.rint(ratio)) < 0.02:
                    found[1] += 1
                    different += seen[int(np.rint(ratio))] != cell
                    seen[int(np.rint(ratio))] = cell
        found[4] = max(found[4], different)
        found[2], found[3] = min(found[2], total), max(found[3], total)
