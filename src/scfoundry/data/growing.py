"""Arrays of a length that is not known before they are filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Growing"]


class Growing:
    """An array that grows at its end, in place where the system can: it never lies in memory twice."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._values, self._n = np.empty(0, dtype), 0

    def __len__(self) -> int:
        return self._n

    def extend(self, values: NDArray[Any]) -> None:
        """Append values; the first ones may be taken as they are, and are not to be used any more."""
        if not self._n and values.flags.owndata and values.dtype == self._values.dtype:
            self._values, self._n = values, len(values)
            return
        end = self._n + len(values)
        if end > len(self._values):
            self._values.resize(max(end, len(self._values) * 129 // 128), refcheck=False)
        self._values[self._n : end] = values
        self._n = end

    def values(self) -> NDArray[Any]:
        """All that was appended; nothing can be, afterwards."""
        self._values.resize(self._n, refcheck=False)
        return self._values
