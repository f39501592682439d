"""What LangCell learns from (Zhao et al. 2024, section 3.2), each objective a function of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from scfoundry.data.tokens.ranks import FIRST_GENE, MASK

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "describes",
    "focal_loss",
    "hard_negatives",
    "mask_genes",
    "masked_gene_loss",
    "matching_loss",
]

# Of the genes to be guessed, BERT replaces 80 % by a mask and 10 % by others, and leaves 10 % as they are: outside
# training no cell has masks, and a state has to be good at any place.
MASKED, REPLACED = 0.8, 0.1


def mask_genes(tokens: Tensor, present: Tensor | None, *, share: float, n_genes: int) -> tuple[Tensor, Tensor]:
    """Hide some genes of every cell, by BERT's rule (Devlin et al. 2019).

    ``tokens``: ``<cls>`` and genes, (B, L). ``present``: which positions are real, (B, L); all of them if `None`.
    ``share``: probability of a gene to be chosen: then it is masked (80 %), replaced by a random gene (10 %) or left
    (10 %). Returns tokens with hidden genes, (B, L), and which were chosen, (B, L) bool.
    """
    chosen = torch.rand(tokens.shape, device=tokens.device) < share
    chosen[:, 0] = False
    if present is not None:
        chosen &= present
    fate = torch.rand(tokens.shape, device=tokens.device)
    others = torch.randint_like(tokens, FIRST_GENE, FIRST_GENE + n_genes)
    hidden = torch.where(chosen & (fate < MASKED), MASK, tokens)
    return torch.where(chosen & (fate >= MASKED) & (fate < MASKED + REPLACED), others, hidden), chosen


def masked_gene_loss(states: Tensor, genes: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of M hidden genes, guessed by the product of a position's state with every gene's vector.

    The vectors are those of the encoder's table, so that guessing has no parameters of its own.

    ``states``: of the hidden positions, (M, D). ``genes``: vectors of all genes, (G, D). ``targets``: which gene was
    there, (M,).
    """
    guesses = F.linear(states, genes).float()
    return F.cross_entropy(guesses, targets, reduction="sum") / max(1, len(targets))


def describes(drawn: Tensor, texts: Tensor) -> Tensor:
    """Whether a text is true of a cell, (B, K).

    ``drawn``: one text each of K cells, (K,). ``texts``: all texts of B cells, (B, C).
    """
    return (texts[:, :, None] == drawn).any(1)


def hard_negatives(similarity: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one negative for every row, the more similar the likelier (Li et al. 2022, BLIP).

    ``similarity``: cosine over temperature of rows and columns, (B, K). ``negative``: which columns are negatives of a
    row, (B, K) bool. Returns rows that have a negative, (N,), and the one drawn for each, (N,).
    """
    rows = negative.any(1).nonzero()[:, 0]
    odds = similarity.float().masked_fill(~negative, -torch.inf)[rows].softmax(1)
    odds = odds.nan_to_num(nan=1.0)  # a training that diverged says so when it ends; the draw must not fail before
    return rows, torch.multinomial(odds, 1)[:, 0] if len(rows) else rows


def matching_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Cross-entropy of no match and match, (N, 2), against whether pairs do match, (N,)."""
    return F.cross_entropy(logits.float(), matches.long())


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    r"""Cross-entropy that what is easy hardly enters (Lin et al. 2017), for labels that are rare.

    .. math:: -\alpha_t (1 - p_t)^\gamma \log p_t

    where :math:`p_t` is the probability given to the truth and :math:`\alpha_t` is :math:`\alpha` where the label is
    there, else :math:`1 - \alpha`; the mean over all cells and labels.

    ``logits``: (B, C). ``targets``: which labels are there, 0 or 1, (B, C). ``gamma``, ``alpha``: :math:`\gamma` and
    :math:`\alpha`.
    """
    logits, targets = logits.float(), targets.float()
    surprise = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * (1 - torch.exp(-surprise)) ** gamma * surprise).mean()
