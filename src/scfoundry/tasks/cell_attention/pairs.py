"""Pairs of cells whose weight is a product of two factors: sums over all pairs, and the largest, in bounded memory."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy import sparse

from scfoundry.nn.chunk_store import ChunkStore, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.nn.attention_factors import AttentionFactors

__all__ = ["CellPairs", "GroupTable", "LargestWeights", "Scale"]

Scale = Literal["shares", "specific", "raw"]


class CellPairs:
    r"""Weights of all pairs of a context, averaged over heads, which never stand in memory together.

    As the heads of a cell lie side by side in its factors, :math:`w_{ij} = \frac{1}{H} a_i \cdot b_j`.

    Parameters
    ----------
    chunks
        Factors of consecutive cells; read once. All but the last of equal size.
    n_cells
        Cells of the context, which decides where factors rest: in memory, or in a file.
    scale
        ``"raw"``; ``"shares"``, which sum to 1 over the cells attended to; ``"specific"``, shares over their mean for
        the cell attended to.
    """

    def __init__(self, chunks: Iterable[AttentionFactors], n_cells: int, *, scale: Scale, device: torch.device) -> None:
        remaining = iter(chunks)
        first = next(remaining)
        # Both factors of all cells take half of what they may: copies are made while they are used.
        on_disk = 4 * n_cells * first.receiving[0].nbytes > resident_bytes(device)
        self.receiving, self.sending = (ChunkStore(device, on_disk=on_disk) for _ in range(2))
        try:
            for receiving, sending in chain([first], remaining):
                self.receiving.append(receiving.flatten(1) / receiving.shape[1])
                self.sending.append(sending.flatten(1))
            if scale != "raw":
                _divide(self.receiving, by=_mean(self.sending) * _n_cells(self.sending))
            if scale == "specific":
                _divide(self.sending, by=_mean(self.receiving))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the files."""
        self.receiving.close()
        self.sending.close()

    def largest(
        self, k: int, among: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Largest weights of every cell.

        Parameters
        ----------
        k
            How many; all if there are fewer cells.
        among
            Cells whose weights for each other count, (n_cells,).

        Yields
        ------
        For every chunk of cells, n of which count, their positions (n,), those of the cells they attend to most, and
        the weights, (n, k) each.
        """
        counting = torch.from_numpy(among)
        for first, receiving in _among(self.receiving, counting):
            values = receiving.new_empty(len(receiving), 0)
            columns = first.new_empty(len(receiving), 0)
            for second, sending in _among(self.sending, counting):
                block = receiving @ sending.T
                candidates = torch.cat([values, block], dim=1)
                at = torch.cat([columns, second.expand_as(block)], dim=1)
                values, order = candidates.topk(min(k, candidates.shape[1]), dim=1)
                columns = at.gather(1, order)
            yield first.cpu().numpy(), columns.cpu().numpy(), values.float().cpu().numpy()

    def sums(self, codes: NDArray[np.int64], n_codes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum of the weights between groups (P, P) and of those that each group gives in all (P,), over all pairs."""
        members = torch.from_numpy(codes)
        receiving, sending = (_by_group(store, members, n_codes) for store in (self.receiving, self.sending))
        offered = _mean(self.sending) * _n_cells(self.sending)
        return (receiving @ sending.T).cpu().numpy(), (receiving @ offered).cpu().numpy()


def _among(store: ChunkStore, counting: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions and factors of the cells that count, chunk by chunk."""
    start = 0
    for i in range(len(store)):
        chunk = store[i]
        own = counting[start : start + len(chunk)].nonzero().ravel().to(chunk.device)
        yield start + own, chunk[own]
        start += len(chunk)


def _n_cells(store: ChunkStore) -> int:
    return sum(len(store[i]) for i in range(len(store)))


def _mean(store: ChunkStore) -> Tensor:
    """Mean of a factor over all cells, (D,)."""
    return torch.stack([_wide(store[i]).sum(0) for i in range(len(store))]).sum(0) / _n_cells(store)


def _divide(store: ChunkStore, *, by: Tensor) -> None:
    """Divide the factor of every cell by its product with a vector."""
    for i in range(len(store)):
        chunk = store[i]
        store[i] = chunk / (_wide(chunk) @ by).to(chunk.dtype)[:, None]


def _by_group(store: ChunkStore, codes: Tensor, n_codes: int) -> Tensor:
    """Sum of a factor over the cells of every group, (P, D)."""
    of_none = torch.where(codes < 0, n_codes, codes)
    start, parts = 0, []
    for i in range(len(store)):
        chunk = _wide(store[i])
        own = of_none[start : start + len(chunk)].to(chunk.device)
        parts.append(chunk.new_zeros(n_codes + 1, chunk.shape[1]).index_add_(0, own, chunk))
        start += len(chunk)
    return torch.stack(parts).sum(0)[:n_codes]


def _wide(x: Tensor) -> Tensor:
    # Double precision keeps sums independent of the chunking; Apple's GPUs have none.
    return x if x.device.type == "mps" else x.double()


class GroupTable:
    """Weights between groups of cells, gathered context by context.

    Parameters
    ----------
    n_codes
        Number of groups P.

    Attributes
    ----------
    observed
        Sum of all weights, rows are the groups that attend, (P, P).
    expected
        The same if every cell spread what it gives evenly over its context.
    n_pairs
        Ordered pairs of cells within contexts, a cell with itself among them, (P, P).
    """

    def __init__(self, n_codes: int) -> None:
        self.observed, self.expected = np.zeros((n_codes, n_codes)), np.zeros((n_codes, n_codes))
        self.n_pairs = np.zeros((n_codes, n_codes), dtype=np.int64)

    def add(self, pairs: CellPairs, codes: NDArray[np.int64]) -> None:
        """Take in a context, given the group of each of its cells, -1 for none."""
        n_codes = len(self.n_pairs)
        size = np.bincount(codes[codes >= 0], minlength=n_codes)
        observed, given = pairs.sums(codes, n_codes)
        self.observed += observed
        self.expected += np.outer(given, size / len(codes))
        self.n_pairs += np.outer(size, size)


class LargestWeights:
    """Collects the largest weights of every cell into one sparse matrix."""

    def __init__(self, n_obs: int) -> None:
        self.n_obs = n_obs
        self._rows: list[NDArray[np.int64]] = []
        self._columns: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float32]] = []

    def add(self, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Take in weights (n, k) of cells ``rows`` (n,) for cells ``columns`` (n, k) of the data."""
        self._rows.append(np.repeat(rows, columns.shape[1]))
        self._columns.append(columns.ravel())
        self._values.append(values.ravel())

    def matrix(self) -> sparse.csr_matrix:
        """The weights, (n_obs, n_obs)."""
        entries = (np.concatenate(self._rows), np.concatenate(self._columns))
        matrix = sparse.csr_matrix((np.concatenate(self._values), entries), shape=(self.n_obs, self.n_obs))
        matrix.sort_indices()
        return matrix
