"""From cosines and matches to probabilities of texts (Zhao et al. 2024, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.langcell._config import Mixture

__all__ = ["best_texts", "mix"]


def best_texts(similarity: Tensor, top_k: int) -> Tensor:
    """The ``top_k`` most similar texts of every cell in the order of texts, (n, k); ties go to the first."""
    order = similarity.argsort(dim=1, descending=True, stable=True)
    return order[:, :top_k].sort(dim=1).values


def mix(similarity: Tensor, matching: Tensor | None, *, temperature: float, alpha: float, mixture: Mixture) -> Tensor:
    r"""Probabilities of P texts for n cells.

    .. math:: p = \alpha \operatorname{softmax}(s / \tau) + (1 - \alpha) \operatorname{softmax}(m)

    where :math:`m` is the match probability as released, and its log odds in the corrected form. Of numbers between 0
    and 1, a softmax over P texts is flat: the released term varies by less than e / P.

    ``similarity``: cosine of cells and texts, (n, P). ``matching``: log odds of a match, (n, P), minus infinity where a
    text was not considered: its share of the second term is 0. Without it, similarity decides alone. ``temperature``,
    ``alpha``: :math:`\tau` and :math:`\alpha`. ``mixture``: ``"released"`` or ``"corrected"``.
    """
    by_similarity = (similarity / temperature).softmax(1)
    if matching is None:
        return by_similarity
    scores = torch.where(matching.isinf(), matching, matching.sigmoid()) if mixture == "released" else matching
    return alpha * by_similarity + (1 - alpha) * scores.softmax(1)
