"""Cells through the encoders, block by block, and back into obs order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.data.tokens.ranks import PAD, cls_token, rank_tokens
from scfoundry.model.langcell._encoders import unit
from scfoundry.model.langcell._matching import best_texts
from scfoundry.nn.sequences import TokenLists, length_sorted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scipy import sparse
    from torch import Tensor

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.reader import Reader
    from scfoundry.model.langcell._module import LangCellModule
    from scfoundry.model.langcell._tokenizer import Tokenizer
    from scfoundry.nn.sequences import Batch

__all__ = ["CellStream", "LabelTexts", "embed_cells", "match_cells", "ranked_cells"]

# Positions per step: enough to keep the device busy, few enough for its memory (on a CPU, its caches).
TOKENS_PER_STEP = {"cpu": 1024, "mps": 16_384, "cuda": 65_536}
# Cells that are ranked and sorted by length together.
CELLS_PER_BLOCK = 8192


def ranked_cells(counts: sparse.csr_matrix, genes: GeneVocabulary, max_length: int) -> TokenLists:
    """``<cls>`` and the genes of every cell in rank order, at most ``max_length`` tokens."""
    if genes.medians is None:
        msg = (
            "The vocabulary has no medians, which rank encoding divides by. Take them from your corpus: "
            "genes=sf.pp.gene_medians(adata)."
        )
        raise ValueError(msg)
    indptr, tokens = rank_tokens(counts, genes.medians, max_length=max_length - 1)
    return TokenLists(indptr, tokens).beginning_with(cls_token(len(genes)))


class CellStream:
    """Cells as batches of tokens, in an order that wastes no padding.

    ``batch_size``: cells per batch; by the number of tokens if `None`.
    """

    def __init__(
        self,
        reader: Reader,
        genes: GeneVocabulary,
        *,
        max_length: int,
        device: torch.device,
        batch_size: int | None = None,
    ) -> None:
        self.reader, self.genes, self.max_length = reader, genes, max_length
        self.device, self.batch_size = device, batch_size

    def __iter__(self) -> Iterator[Batch]:
        """Batches whose ``rows`` are row numbers of the AnnData."""
        budget = TOKENS_PER_STEP.get(self.device.type, TOKENS_PER_STEP["cpu"])
        bar = tqdm(desc="langcell", total=self.reader.n_obs, unit="cell", disable=not settings.show_progress)
        with bar:
            start = 0
            for counts in self.reader.blocks(np.arange(self.reader.n_obs), CELLS_PER_BLOCK):
                cells = ranked_cells(counts, self.genes, self.max_length)
                batches = length_sorted(cells, tokens_per_step=budget, batch_size=self.batch_size, pad=PAD)
                for batch in batches:
                    yield batch.to(self.device)._replace(rows=batch.rows + start)
                    bar.update(len(batch.rows))
                start += counts.shape[0]


# Not inference_mode: there autocast would cast every weight anew at every batch.
@torch.no_grad()
def embed_cells(module: LangCellModule, cells: CellStream) -> np.ndarray:
    """Cell embeddings of length 1, (n_obs, Z) float32, in obs order."""
    latent = np.empty((cells.reader.n_obs, module.config.n_latent), dtype=np.float32)
    for batch in cells:
        latent[batch.rows] = module(batch.tokens, batch.present).float().cpu().numpy()
    return latent


class LabelTexts:
    """Labels, each with one or more texts, encoded once.

    A label's embedding is the direction of the mean of its texts' embeddings; with a cell it is matched by its first
    text.
    """

    @torch.no_grad()
    def __init__(self, module: LangCellModule, tokenizer: Tokenizer, labels: Sequence[Sequence[str]]) -> None:
        self.module, self.budget = module, TOKENS_PER_STEP.get(module.device.type, TOKENS_PER_STEP["cpu"])
        texts = [text for label in labels for text in label]
        owner = torch.tensor([i for i, label in enumerate(labels) for _ in label], device=module.device)
        words = tokenizer(texts)
        self.embedding = self._embed(words, owner, len(labels))  # (P, Z)
        firsts = np.cumsum([0, *map(len, labels)])[:-1]
        self._batches = self._begin(TokenLists.of([words.tokens[a:b] for a, b in _bounds(words, firsts)]))

    def _embed(self, words: TokenLists, owner: Tensor, n_labels: int) -> Tensor:
        embedded = torch.zeros(n_labels, self.module.config.n_latent, device=self.module.device)
        for batch in length_sorted(words, tokens_per_step=self.budget):
            rows = torch.from_numpy(batch.rows).to(self.module.device)
            moved = batch.to(self.module.device)
            embedded.index_add_(0, owner[rows], self.module.embed_texts(moved.tokens, moved.present).float())
        return unit(embedded)

    def _begin(self, words: TokenLists) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Labels, states before the first look at a cell, and real positions, batch by batch."""
        begun = []
        for batch in length_sorted(words, tokens_per_step=self.budget):
            moved = batch.to(self.module.device)
            rows = torch.from_numpy(batch.rows).to(self.module.device)
            begun.append((rows, self.module.text.begin(moved.tokens, moved.present), moved.present))
        return begun

    def match(self, states: Tensor, considered: Tensor) -> Tensor:
        """Log odds that one cell's states (1, L, D) match each label, (P,); minus infinity where not considered."""
        odds = torch.full((len(self.embedding),), -torch.inf, device=states.device)
        answers = self.module.text.look_at(states)
        for labels, begun, present in self._batches:
            chosen = considered[labels].nonzero()[:, 0]
            if len(chosen):
                real = None if present is None else present[chosen]
                logits = self.module.match_logits(begun[chosen], real, answers).float()
                odds[labels[chosen]] = logits[:, 1] - logits[:, 0]
        return odds


def _bounds(words: TokenLists, rows: np.ndarray) -> list[tuple[int, int]]:
    return [(int(words.indptr[row]), int(words.indptr[row + 1])) for row in rows]


@torch.no_grad()
def match_cells(
    module: LangCellModule, cells: CellStream, labels: LabelTexts, *, top_k: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Similarity of every cell with every label, and the log odds of a match.

    ``top_k``: only the most similar labels of a cell are matched with it. Returns cosine, (n_obs, P) float32, and log
    odds, (n_obs, P) float32, minus infinity where a label was not matched; `None` if ``top_k`` is 0.
    """
    shape = (cells.reader.n_obs, len(labels.embedding))
    similarity = np.empty(shape, dtype=np.float32)
    odds = np.empty(shape, dtype=np.float32) if top_k else None
    for batch in cells:
        states = module.cell(batch.tokens, batch.present, n_wanted=None if top_k else 1)
        cosine = module.project_cells(states).float() @ labels.embedding.T
        similarity[batch.rows] = cosine.cpu().numpy()
        if odds is None:
            continue
        lengths = [states.shape[1]] * len(states) if batch.present is None else batch.present.sum(1).tolist()
        for i, row in enumerate(batch.rows):
            considered = torch.zeros(shape[1], dtype=torch.bool, device=states.device)
            considered[best_texts(cosine[i : i + 1], top_k)[0]] = True
            odds[row] = labels.match(states[i : i + 1, : lengths[i]], considered).cpu().numpy()
    return similarity, odds
