"""Pairs of cells whose weight is a product of two factors: sums over all pairs, and the largest, in bounded memory."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Literal

import torch

from scfoundry.nn.chunk_store import ChunkStore, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.nn.attention_factors import AttentionFactors

__all__ = ["CellPairs", "Scale"]

Scale = Literal["shares", "specific", "raw"]


class CellPairs:
    r"""Weights of all pairs of a context, averaged over heads, which never stand in memory together.

    As the heads of a cell lie side by side in its factors, :math:`w_{ij} = \frac{1}{H} a_i \cdot b_j`. Chunks of
    factors are read once, all but the last of equal size; ``n_cells`` decides whether they rest in memory or in a file.

    Scales: ``"raw"``; ``"shares"``, which sum to 1 over the cells attended to; ``"specific"``, shares over their mean
    for the cell attended to.
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
        """The k largest weights of every cell (all if fewer), among the cells that count, (n_cells,).

        Yields for every chunk of cells, n of which count, their positions (n,), those of the cells they attend to most,
        and the weights, (n, k) each.
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
    for rows, chunk in _chunks(store):
        own = counting[rows].nonzero().ravel().to(chunk.device)
        yield rows.start + own, chunk[own]


def _chunks(store: ChunkStore) -> Iterator[tuple[slice, Tensor]]:
    """Where the cells of every chunk stand, and their factors."""
    start = 0
    for i in range(len(store)):
        chunk = store[i]
        yield slice(start, start + len(chunk)), chunk
        start += len(chunk)


def _n_cells(store: ChunkStore) -> int:
    return sum(len(chunk) for _, chunk in _chunks(store))


def _mean(store: ChunkStore) -> Tensor:
    """Mean of a factor over all cells, (D,)."""
    return torch.stack([_wide(chunk).sum(0) for _, chunk in _chunks(store)]).sum(0) / _n_cells(store)


def _divide(store: ChunkStore, *, by: Tensor) -> None:
    """Divide the factor of every cell by its product with a vector."""
    for i in range(len(store)):
        chunk = store[i]
        store[i] = chunk / (_wide(chunk) @ by).to(chunk.dtype)[:, None]


def _by_group(store: ChunkStore, codes: Tensor, n_codes: int) -> Tensor:
    """Sum of a factor over the cells of every group, (P, D)."""
    of_none = torch.where(codes < 0, n_codes, codes)
    parts = []
    for rows, chunk in _chunks(store):
        own, wide = of_none[rows].to(chunk.device), _wide(chunk)
        parts.append(wide.new_zeros(n_codes + 1, wide.shape[1]).index_add_(0, own, wide))
    return torch.stack(parts).sum(0)[:n_codes]


def _wide(x: Tensor) -> Tensor:
    # Double precision keeps sums independent of the chunking; Apple's GPUs have none.
    return x if x.device.type == "mps" else x.double()
