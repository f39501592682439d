"""Cells and texts as LangCell reads them in training: any batch, without holding all of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scfoundry._arguments import quoted
from scfoundry.data.tokens.ranks import PAD
from scfoundry.model.langcell._inference import CELLS_PER_BLOCK, TOKENS_PER_STEP, ranked_cells
from scfoundry.nn.sequences import Batch, TokenLists

if TYPE_CHECKING:
    from anndata import AnnData
    from torch import Tensor

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.reader import Reader
    from scfoundry.model.langcell._tokenizer import Tokenizer

__all__ = ["CellTexts", "DrawnTexts", "TrainingCells", "require_texts"]


def require_texts(adata: AnnData, column: str) -> None:
    """Refuse a column of ``obs`` in which cells have no text."""
    if column not in adata.obs:
        msg = f"obs has no column {column!r}; it has {quoted(adata.obs.columns)}."
        raise KeyError(msg)
    n_missing = int(adata.obs[column].isna().sum())
    if n_missing:
        msg = (
            f"obs[{column!r}] has no text for {n_missing:,} of {adata.n_obs:,} cells. Write one for every cell, "
            f"adata.obs[{column!r}] = sf.tl.describe_cells(adata), or leave these cells out: "
            f"adata = adata[adata.obs[{column!r}].notna()].copy()."
        )
        raise ValueError(msg)


class TrainingCells:
    """Cells of an AnnData, ranked when they are asked for."""

    def __init__(self, reader: Reader, genes: GeneVocabulary, max_length: int) -> None:
        self.reader, self.genes, self.max_length = reader, genes, max_length

    def lengths(self) -> np.ndarray:
        """Genes of every cell that the encoder will see, (n_obs,); 0 where none is in the vocabulary."""
        blocks = self.reader.blocks(np.arange(self.reader.n_obs), CELLS_PER_BLOCK)
        detected = [np.diff(block.indptr) for block in blocks]
        return np.minimum(np.concatenate(detected), self.max_length - 1)

    def batch(self, rows: np.ndarray, device: torch.device) -> Batch:
        """Some cells by their row numbers."""
        cells = ranked_cells(self.reader.read(rows), self.genes, self.max_length)
        return Batch(rows, *cells.padded(np.arange(len(rows)), PAD)).to(device)

    def parts(self, rows: np.ndarray, device: torch.device, size: int | None = None) -> list[Batch]:
        """The same in mini-batches, in order; ``size``: most cells of one, as many as suit the device if `None`."""
        cells = ranked_cells(self.reader.read(rows), self.genes, self.max_length)
        budget = TOKENS_PER_STEP.get(device.type, TOKENS_PER_STEP["cpu"])
        size = size or max(1, budget // int(cells.lengths.max()))
        places = np.array_split(np.arange(len(rows)), math.ceil(len(rows) / size))
        return [Batch(rows[some], *cells.padded(some, PAD)).to(device) for some in places]


class DrawnTexts(NamedTuple):
    """One text for each of B cells; a text that several cells share is encoded once."""

    words: Batch  # the P distinct ones
    place: Tensor  # (B,) which of them a cell has
    drawn: Tensor  # (B,) their numbers among all texts
    described: Tensor  # (B, C) all texts of the cells


class CellTexts:
    """The texts of all cells, each text once.

    ``texts``: C texts of every cell, (n_obs, C).
    """

    def __init__(self, texts: np.ndarray, tokenizer: Tokenizer) -> None:
        distinct, described = np.unique(texts, return_inverse=True)
        self.words: TokenLists = tokenizer(distinct.tolist())
        self.described = torch.from_numpy(described.reshape(texts.shape))

    def draw(self, rows: np.ndarray, device: torch.device) -> DrawnTexts:
        """One of the texts of each cell, at random."""
        described = self.described[torch.from_numpy(rows)]
        drawn = described.gather(1, torch.randint(described.shape[1], (len(rows), 1)))[:, 0]
        distinct, place = drawn.unique(return_inverse=True)
        numbers = distinct.numpy()
        words = Batch(numbers, *self.words.padded(numbers)).to(device)
        return DrawnTexts(words, place.to(device), drawn.to(device), described.to(device))
