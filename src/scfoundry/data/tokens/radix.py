"""One pass of a radix sort, compiled by numba when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Packed = NDArray[np.uint64]
    Starts = NDArray[np.int64]

__all__ = ["DIGIT_BITS", "RADIX", "sort_digit"]

DIGIT_BITS = 8
RADIX = 1 << DIGIT_BITS


@compiled
def sort_digit(packed: Packed, spare: Packed, n: int, shift: int, starts: Starts) -> bool:
    """Sort by one digit, stable, from the first array into the second; False if all share the digit: nothing to do."""
    right, mask = np.uint64(shift), np.uint64(RADIX - 1)
    starts[:] = 0
    for j in range(n):
        starts[(packed[j] >> right) & mask] += 1
    if starts[(packed[0] >> right) & mask] == n:
        return False
    start = 0
    for bucket in range(RADIX):
        size = starts[bucket]
        starts[bucket] = start
        start += size
    for j in range(n):
        bucket = (packed[j] >> right) & mask
        spare[starts[bucket]] = packed[j]
        starts[bucket] += 1
    return True
