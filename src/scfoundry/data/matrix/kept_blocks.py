"""Blocks of cells that were read last, for who reads in no order: a file gives neighbours at the cost of one row."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from scfoundry.data.matrix.row_blocks import rows_of, stacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["CELLS_IN_MEMORY", "KeptBlocks"]

# Cells of the blocks that are kept: some hundred megabytes.
CELLS_IN_MEMORY = 16_384


class KeptBlocks:
    """Rows of n_rows, ``size`` neighbours being read together by ``load`` and kept until others take their place."""

    def __init__(self, load: Callable[[NDArray[np.int64]], sparse.csr_matrix], n_rows: int, size: int) -> None:
        self.load, self.n_rows, self.size = load, n_rows, size
        self.capacity = max(2, CELLS_IN_MEMORY // size)
        self._kept: OrderedDict[int, sparse.csr_matrix] = OrderedDict()

    def read(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        """Some rows, in their order."""
        order = np.argsort(rows, kind="stable")
        numbers, starts = np.unique(rows[order] // self.size, return_index=True)
        pieces = [
            rows_of(self._block(number), some % self.size)
            for number, some in zip(numbers.tolist(), np.split(rows[order], starts[1:]), strict=True)
        ]
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
        return stacked(pieces)[np.argsort(order)]

    def _block(self, number: int) -> sparse.csr_matrix:
        if number not in self._kept:
            start = number * self.size
            self._kept[number] = self.load(np.arange(start, min(start + self.size, self.n_rows)))
        self._kept.move_to_end(number)
        return self._kept[number]
