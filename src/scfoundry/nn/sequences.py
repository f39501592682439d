"""Token sequences of different lengths, put into batches with next to no padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Batch", "TokenLists", "length_sorted", "rows_by_length"]


class TokenLists(NamedTuple):
    """n token sequences end to end: those of sequence i are ``tokens[indptr[i]:indptr[i + 1]]``."""

    indptr: NDArray[np.int64]
    tokens: NDArray[np.int32]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int] | NDArray[np.int32]]) -> TokenLists:
        """Lay sequences end to end."""
        indptr = np.cumsum([0, *map(len, sequences)])
        return cls(indptr, np.array([token for sequence in sequences for token in sequence], dtype=np.int32))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per sequence."""
        return np.diff(self.indptr)

    def beginning_with(self, token: int) -> TokenLists:
        """The same sequences with one token in front of each."""
        tokens = np.insert(self.tokens, self.indptr[:-1], token)
        return TokenLists(self.indptr + np.arange(len(self.indptr)), tokens)

    def padded(self, rows: NDArray[np.int64], pad: int = 0) -> tuple[Tensor, Tensor | None]:
        """Some sequences, padded on the right.

        Returns tokens (B, L) and which of them are real, `None` where all are.
        """
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max(initial=0))
        present = columns < lengths[:, None]
        places = np.where(present, self.indptr[rows][:, None] + columns, 0)
        tokens = np.where(present, self.tokens[places], pad).astype(np.int64)
        return torch.from_numpy(tokens), None if present.all() else torch.from_numpy(present)


class Batch(NamedTuple):
    """Sequences that are computed together."""

    rows: NDArray[np.int64]
    tokens: Tensor  # (B, L)
    present: Tensor | None  # (B, L)

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        return Batch(self.rows, self.tokens.to(device), None if self.present is None else self.present.to(device))

    def split(self, size: int) -> list[Batch]:
        """The same in parts of so many sequences, the last of which may be smaller."""
        places = [slice(start, start + size) for start in range(0, len(self.rows), size)]
        return [
            Batch(self.rows[at], self.tokens[at], None if self.present is None else self.present[at]) for at in places
        ]


def rows_by_length(
    lengths: NDArray[np.int64], *, tokens_per_step: int, batch_size: int | None = None
) -> Iterator[NDArray[np.int64]]:
    """Rows of batches of similar length, the longest first so that memory is claimed once.

    ``lengths``: of all sequences to go through, (n,). ``tokens_per_step``: most positions of a batch, padding included.
    A longer sequence is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = batch_size or max(1, tokens_per_step // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def length_sorted(
    sequences: TokenLists, *, tokens_per_step: int, batch_size: int | None = None, pad: int = 0
) -> Iterator[Batch]:
    """Batches as `rows_by_length` cuts them; ``pad`` is the token that fills a row up."""
    for rows in rows_by_length(sequences.lengths, tokens_per_step=tokens_per_step, batch_size=batch_size):
        yield Batch(rows, *sequences.padded(rows, pad))
