"""A text encoder without a vocabulary: hashed words, word pairs and character n-grams, averaged."""

from __future__ import annotations

import functools
import re
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["HashedText"]

_SEPARATORS = re.compile(r"[^a-z0-9+]+")
_NGRAM_LENGTHS = (3, 4, 5)


class HashedText(nn.Module):
    """Texts to unit vectors by the mean of hashed n-gram vectors.

    No word is unknown: unseen words share character n-grams with seen ones. The hash is CRC-32, the same everywhere.

    ``n_buckets``: rows of the table that n-grams are hashed into.
    """

    def __init__(self, n_buckets: int, n_hidden: int, n_output: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(n_buckets, n_hidden, mode="mean", include_last_offset=True)
        self.project = nn.Linear(n_hidden, n_output)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embed P texts, (P, D) of unit length."""
        buckets = [_buckets(text, self.table.num_embeddings) for text in texts]
        offsets = torch.tensor([0, *map(len, buckets)]).cumsum(0)
        flat = torch.tensor([bucket for of_text in buckets for bucket in of_text], dtype=torch.long)
        device = self.table.weight.device
        return F.normalize(self.project(self.table(flat.to(device), offsets.to(device))), dim=-1)


@functools.lru_cache(maxsize=65_536)
def _buckets(text: str, n_buckets: int) -> tuple[int, ...]:
    return tuple(zlib.crc32(ngram.encode()) % n_buckets for ngram in _ngrams(text))


def _ngrams(text: str) -> list[str]:
    """Words, word pairs, and character n-grams within words; a kind mark keeps them apart."""
    words = _SEPARATORS.sub(" ", text.lower()).split()
    marked = [f"<{word}>" for word in words]
    characters = [
        f"c:{word[start : start + n]}" for word in marked for n in _NGRAM_LENGTHS for start in range(len(word) - n + 1)
    ]
    return [f"w:{word}" for word in words] + [f"b:{a} {b}" for a, b in pairwise(words)] + characters
