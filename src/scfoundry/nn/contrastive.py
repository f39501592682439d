"""Contrast of pairs that belong together with those that do not (van den Oord et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["contrastive_loss"]


def contrastive_loss(queries: Tensor, candidates: Tensor, negative: Tensor, temperature: float) -> Tensor:
    r"""InfoNCE: query i, a unit vector (B, Z), is to find candidate i among its negatives.

    .. math:: -\frac{1}{B} \sum_i \log \frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j \in N_i} e^{s_{ij}}}, \qquad
        s_{ij} = q_i \cdot c_j / \tau

    Those of the queries come first among the candidates (B + Q, Z). ``negative``, (B, B + Q) bool, marks
    :math:`N_i`: what is true of a query is none.
    """
    positive = torch.eye(*negative.shape, dtype=torch.bool, device=negative.device)
    with torch.autocast(queries.device.type, enabled=False):
        similarity = queries.float() @ candidates.float().T / temperature
    similarity = similarity.masked_fill(~(negative | positive), -torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(queries), device=queries.device))
