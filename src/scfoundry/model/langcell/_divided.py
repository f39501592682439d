"""LangCell's objectives over a batch of any size, in the memory of a part of it (Zhao et al. 2023, Gao et al. 2021)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from scfoundry.model.langcell._objectives import describes, matching_loss
from scfoundry.model.langcell._pretraining import draw_pairs, guess_genes, hide_genes, pair_logits
from scfoundry.nn.contrastive import contrastive_loss
from scfoundry.nn.divide_and_conquer import SharedParameters, encode_in_parts, gather_rows
from scfoundry.nn.sequences import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

    from scfoundry.model.langcell._module import LangCellModule
    from scfoundry.model.langcell._training_data import CellTexts, DrawnTexts, TrainingCells

__all__ = ["DividedPretraining"]

# Of every true pair come two with a hard negative; so many pairs of each cell are in memory together.
PAIRS_PER_CELL = 3


class DividedPretraining:
    """Losses of one batch of cells; the other cells of the batch, on all processes, are the only negatives.

    What `Pretraining` reads off one pass are passes of their own here, each divided into parts: two views of the cells
    for the contrasts, cells with hidden genes, and cells that texts look at. Pairs to match are of the cells and texts
    of this process.

    ``weights``: of every objective; what has none (0) is not computed, but for the contrast of cells and texts.
    ``part_size``: cells whose gradients are in memory at a time, and texts; as many as suit the device if `None`.
    """

    def __init__(
        self,
        module: LangCellModule,
        cells: TrainingCells,
        texts: CellTexts | None,
        weights: Mapping[str, float],
        part_size: int | None = None,
    ) -> None:
        self.module, self.cells, self.texts, self.weights = module, cells, texts, weights
        self.part_size, self.temperature = part_size, module.config.temperature

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """Sum of the weighted objectives, and each of them."""
        parts = self.cells.parts(rows, self.module.device, self.part_size)
        texts = None if self.texts is None else self.texts.draw(rows, self.module.device)
        shared = SharedParameters(self.module.parameters())
        views = self.views(parts, shared)
        losses = {}
        if self.weights["masked_genes"]:
            losses["masked_genes"] = self.masked_genes(parts, shared)
        if self.weights["cell_cell"]:
            numbers = gather_rows(torch.from_numpy(rows).to(self.module.device))
            one, again = map(gather_rows, views)
            losses["cell_cell"] = contrastive_loss(one, again, numbers[:, None] != numbers, self.temperature)
        if texts is not None:
            losses |= self.text_losses(parts, views[0], texts, shared)
        total = sum((self.weights[name] * loss for name, loss in losses.items()), start=views[0].new_zeros(()))
        return {"loss": total} | losses

    def views(self, parts: list[Batch], shared: SharedParameters) -> tuple[Tensor, ...]:
        """Embeddings of the cells, (B, Z), with one dropout, and with another where cells are contrasted with cells."""
        n_views = 2 if self.weights["cell_cell"] else 1
        (embeddings,) = encode_in_parts(self.of_cells, parts * n_views, shared)
        return embeddings.chunk(n_views)

    def of_cells(self, cells: Batch) -> tuple[Tensor]:
        """Embeddings of some cells."""
        return (self.module(cells.tokens, cells.present),)

    def of_texts(self, words: Batch) -> tuple[Tensor]:
        """Embeddings of some texts."""
        return (self.module.embed_texts(words.tokens, words.present),)

    def masked_genes(self, parts: list[Batch], shared: SharedParameters) -> Tensor:
        """Hidden genes, a mean over those of all parts."""
        drawn = [(part, *hide_genes(self.module, part)) for part in parts]
        (of_parts,) = encode_in_parts(self.guesses, drawn, shared)
        n_chosen = torch.stack([chosen.sum() for *_, chosen in drawn])
        return (of_parts * n_chosen).sum() / n_chosen.sum().clamp(min=1)

    def guesses(self, drawn: tuple[Batch, Tensor, Tensor]) -> tuple[Tensor]:
        """Loss of the hidden genes of some cells, (1,)."""
        return (guess_genes(self.module, *drawn)[None],)

    def text_losses(
        self, parts: list[Batch], cells: Tensor, texts: DrawnTexts, shared: SharedParameters
    ) -> dict[str, Tensor]:
        """Which text is a cell's, which cell is a text's, and whether a pair belongs together."""
        words = texts.words.split(max(len(part.rows) for part in parts))
        (read,) = encode_in_parts(self.of_texts, words, shared)
        read = read[texts.place]  # (B, Z)
        all_cells, all_texts, drawn, described = map(gather_rows, (cells, read, texts.drawn, texts.described))
        untrue = ~describes(drawn, described)  # (T, T): texts that are not true of a cell
        to_text = contrastive_loss(all_cells, all_texts, untrue, self.temperature)
        to_cell = contrastive_loss(all_texts, all_cells, untrue.T, self.temperature)
        losses = {"cell_text": (to_text + to_cell) / 2}
        if self.weights["matching"]:
            similarity = cells.detach() @ read.detach().T / self.temperature
            losses["matching"] = self.matching(parts, similarity, texts, shared)
        return losses

    def matching(self, parts: list[Batch], similarity: Tensor, texts: DrawnTexts, shared: SharedParameters) -> Tensor:
        """Whether pairs belong together; ``similarity``: cosine over temperature of cells and texts, (B, B)."""
        cell_of, text_of, matches = draw_pairs(similarity, ~describes(texts.drawn, texts.described))
        pairs, order, start = [], [], 0
        for part in parts:
            stop = start + len(part.rows)
            here = ((start <= cell_of) & (cell_of < stop)).nonzero()[:, 0]
            for some in here.split(PAIRS_PER_CELL * len(part.rows)):
                pairs.append((part, cell_of[some] - start, texts.place[text_of[some]]))
                order.append(some)
            start = stop
        look = partial(self.looks, texts.words)
        (logits,) = encode_in_parts(look, pairs, shared)
        return matching_loss(logits, matches[torch.cat(order)])

    def looks(self, words: Batch, pairs: tuple[Batch, Tensor, Tensor]) -> tuple[Tensor]:
        """Logits of pairs of some cells, which cells and which texts being given by their places, (N, 2)."""
        cells, cell_of, text_of = pairs
        needed, text_of = text_of.unique(return_inverse=True)
        present = None if words.present is None else words.present[needed]
        read = Batch(words.rows[needed.cpu().numpy()], words.tokens[needed], present)
        states = self.module.cell(cells.tokens, cells.present)
        return (pair_logits(self.module, cells, states, read, cell_of, text_of),)
