"""One step of LangCell's pre-training: a batch of cells, their texts, and the four objectives."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from scfoundry.data.tokens.ranks import FIRST_GENE, cls_token
from scfoundry.model.langcell._encoders import unit
from scfoundry.model.langcell._momentum import Momentum, Pairs
from scfoundry.model.langcell._objectives import (
    describes,
    hard_negatives,
    mask_genes,
    masked_gene_loss,
    matching_loss,
)
from scfoundry.nn.contrastive import contrastive_loss
from scfoundry.nn.divide_and_conquer import gather_rows
from scfoundry.nn.transformer import KeysValues

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

    from scfoundry.model.langcell._module import LangCellModule
    from scfoundry.model.langcell._training_data import CellTexts, DrawnTexts, TrainingCells
    from scfoundry.nn.sequences import Batch
    from scfoundry.nn.transformer import TransformerLayer

__all__ = ["Pretraining", "draw_pairs", "guess_genes", "hide_genes", "pair_logits"]


class Pretraining:
    """Losses of one batch of cells, which all processes contrast with those of all; pairs to match are their own.

    ``weights``: of every objective; what has none (0) is not computed, but for the contrast of cells and texts.
    """

    def __init__(
        self,
        module: LangCellModule,
        momentum: Momentum,
        cells: TrainingCells,
        texts: CellTexts | None,
        weights: Mapping[str, float],
    ) -> None:
        self.module, self.momentum, self.cells, self.texts, self.weights = module, momentum, cells, texts, weights
        self.temperature = module.config.temperature

    def __call__(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """Sum of the weighted objectives, and each of them."""
        cells = self.cells.batch(rows, self.module.device)
        texts = None if self.texts is None else self.texts.draw(rows, self.module.device)
        queue = self.momentum.queue

        # Matching alone looks at a cell's genes; all else reads <cls>.
        n_wanted = None if self.weights.get("matching") else 1
        states = self.module.cell(cells.tokens, cells.present, n_wanted=n_wanted)
        embedding = self.module.project_cells(states)
        losses = {}
        if self.weights["masked_genes"]:
            losses["masked_genes"] = guess_genes(self.module, cells, *hide_genes(self.module, cells))
        if self.weights["cell_cell"]:
            # Another pass, another dropout.
            again = torch.cat([gather_rows(self.module(cells.tokens, cells.present)), queue.cells])
            numbers = gather_rows(torch.from_numpy(rows).to(embedding.device))
            others = numbers[:, None] != torch.cat([numbers, queue.rows])
            losses["cell_cell"] = contrastive_loss(gather_rows(embedding), again, others, self.temperature)
        if texts is not None:
            losses |= self.text_losses(cells, states, embedding, texts, queue)
        if self.module.training and self.momentum.size:
            self.momentum.follow(self.module)
            self.momentum.remember(Pairs(*map(gather_rows, self.slow_pairs(cells, texts))))
        total = sum((self.weights[name] * loss for name, loss in losses.items()), start=embedding.new_zeros(()))
        return {"loss": total} | losses

    def slow_pairs(self, cells: Batch, texts: DrawnTexts | None) -> Pairs:
        """Cells and texts as the slow encoders see them."""
        embedding = self.momentum.embed_cells(cells.tokens, cells.present)
        rows = torch.from_numpy(cells.rows).to(embedding.device)
        if texts is None:
            return Pairs(embedding, rows, embedding[:, :0], torch.zeros_like(rows), rows[:, None][:, :0])
        text_embedding = self.momentum.embed_texts(texts.words.tokens, texts.words.present)[texts.place]
        return Pairs(embedding, rows, text_embedding, texts.drawn, texts.described)

    def text_losses(
        self, cells: Batch, states: Tensor, embedding: Tensor, texts: DrawnTexts, queue: Pairs
    ) -> dict[str, Tensor]:
        """Which text is a cell's, which cell is a text's, and whether a pair belongs together."""
        words = texts.words
        text_embedding = unit(self.module.text_projection(self.module.text(words.tokens, words.present)[:, 0]))[
            texts.place
        ]
        all_cells, all_texts, drawn, described = map(
            gather_rows, (embedding, text_embedding, texts.drawn, texts.described)
        )
        # (T, T + Q): candidate texts that are not true of a cell, candidate cells that a text is not true of.
        untrue = ~describes(torch.cat([drawn, queue.drawn]), described)
        undescribed = ~describes(drawn, torch.cat([described, queue.described])).T
        to_text = contrastive_loss(all_cells, torch.cat([all_texts, queue.texts]), untrue, self.temperature)
        to_cell = contrastive_loss(all_texts, torch.cat([all_cells, queue.cells]), undescribed, self.temperature)
        losses = {"cell_text": (to_text + to_cell) / 2}
        if self.weights["matching"]:
            similarity = embedding.detach() @ text_embedding.detach().T / self.temperature
            cell_of, text_of, matches = draw_pairs(similarity, ~describes(texts.drawn, texts.described))
            logits = pair_logits(self.module, cells, states, words, cell_of, texts.place[text_of])
            losses["matching"] = matching_loss(logits, matches)
        return losses


def hide_genes(module: LangCellModule, cells: Batch) -> tuple[Tensor, Tensor]:
    """Tokens without some of the genes, and which are to be guessed, (B, L) each; see `mask_genes`."""
    share, n_genes = module.config.mask_genes, number_of_genes(module)
    return mask_genes(cells.tokens, cells.present, share=share, n_genes=n_genes)


def guess_genes(module: LangCellModule, cells: Batch, hidden: Tensor, chosen: Tensor) -> Tensor:
    """Loss of hidden genes, guessed from those around them."""
    states = module.cell(hidden, cells.present)[chosen]
    table = module.cell.tokens.weight[FIRST_GENE : cls_token(number_of_genes(module))]
    return masked_gene_loss(states, table, cells.tokens[chosen] - FIRST_GENE)


def number_of_genes(module: LangCellModule) -> int:
    """Genes of the vocabulary."""
    return len(module.cell.tokens.weight) - FIRST_GENE - 1


def pair_logits(
    module: LangCellModule, cells: Batch, states: Tensor, words: Batch, cell_of: Tensor, text_of: Tensor
) -> Tensor:
    """Logits of no match and of a match of N pairs, (N, 2).

    ``states``: of the cells, (B, L, D). ``cell_of``, ``text_of``: which cell and which of the P texts, (N,).
    """

    def answer(layer: TransformerLayer) -> KeysValues:
        keys, values = layer.context_attention.keys_values(states)
        return KeysValues(keys[cell_of], values[cell_of])

    return module.match_logits(
        module.text.begin(words.tokens, words.present)[text_of],
        _at(words.present, text_of),
        # Of every pair and layer they would be most of what a step keeps.
        [partial(answer, layer) for layer in module.text.layers],
        _at(cells.present, cell_of),
    )


def draw_pairs(similarity: Tensor, untrue: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The true pairs, every cell with a hard text, every text with a hard cell: a third of them match.

    ``similarity``: cosine over temperature, cells x texts, (B, B). ``untrue``: which texts are not true of a cell, (B,
    B) bool. Returns numbers of the cells, of the texts, and whether they match; (3B,), less where a cell or text has no
    negative.
    """
    true = torch.arange(len(similarity), device=similarity.device)
    cells, hard_texts = hard_negatives(similarity, untrue)
    texts, hard_cells = hard_negatives(similarity.T, untrue.T)
    cell_of, text_of = torch.cat([true, cells, hard_cells]), torch.cat([true, hard_texts, texts])
    return cell_of, text_of, torch.arange(len(cell_of), device=true.device) < len(true)


def _at(present: Tensor | None, places: Tensor) -> Tensor | None:
    return None if present is None else present[places]
