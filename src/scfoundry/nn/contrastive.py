"""Contrast of pairs that belong together with those that do not (van den Oord et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from scfoundry.nn.divide_and_conquer import encode_in_parts, gather_rows

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["contrastive_loss", "two_view_loss"]

# Rows whose similarity to all others is in memory at a time.
ROWS_AT_ONCE = 64


def contrastive_loss(queries: Tensor, candidates: Tensor, negative: Tensor, temperature: float) -> Tensor:
    r"""InfoNCE: query i, a unit vector (B, Z), is to find candidate i among its negatives.

    .. math:: -\frac{1}{B} \sum_i \log \frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j \in N_i} e^{s_{ij}}}, \qquad
        s_{ij} = q_i \cdot c_j / \tau

    Those of the queries come first among the candidates (B + Q, Z). ``negative``, (B, B + Q) bool, marks
    :math:`N_i`: what is true of a query is none.
    """
    positive = torch.eye(*negative.shape, dtype=torch.bool, device=negative.device)
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        similarity = queries.to(dtype) @ candidates.to(dtype).T / temperature
    similarity = similarity.masked_fill(~(negative | positive), -torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(queries), device=queries.device))


def two_view_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    r"""Contrast of two views of the same cells, (T, Z) each: the first is to find its second among all second ones.

    .. math:: -\frac{1}{T} \sum_i \log \frac{e^{\cos(h_i, h_i^+) / \tau}}{\sum_j e^{\cos(h_i, h_j^+) / \tau}}

    Cells of all processes take part (see `gather_rows`). The T x T similarities are never in memory together.
    """
    n_latent = first.shape[1]
    with torch.autocast(first.device.type, enabled=False):
        views = torch.cat([first, second], 1).to(torch.promote_types(first.dtype, torch.float32))
        queries, candidates = (F.normalize(view, dim=1) for view in gather_rows(views).split(n_latent, 1))
        places = torch.arange(len(queries), device=queries.device)

        def losses(rows: Tensor) -> tuple[Tensor]:
            similarity = queries[rows] @ candidates.T / temperature
            return (F.cross_entropy(similarity, places[rows], reduction="none"),)

        (of_rows,) = encode_in_parts(losses, places.split(ROWS_AT_ONCE), (queries, candidates))
    return of_rows.mean()
