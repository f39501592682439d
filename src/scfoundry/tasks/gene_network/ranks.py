"""Attention of a cell made comparable with that of others: ranks in rows, then in columns (Cui et al. 2024)."""

from __future__ import annotations

import torch

__all__ = ["rank_normalised"]


def rank_normalised(logits: torch.Tensor) -> torch.Tensor:
    r"""Ranks of the logits of pairs of different genes, from 0 to 1, mean over heads.

    Within every head and row (a gene that attends) logits become ranks among the other genes, :math:`r_{ij}`; within
    every column (a gene attended to) these become ranks again, :math:`s_{ij}`. With n genes the result is
    :math:`\frac{1}{H} \sum_h (s^h_{ij} + \frac{1}{2}) / (n - 1)`, ranks counted from 0: a column has the mean 1/2
    whatever n. Ties share their mean rank, so that the order of genes plays no part; there are many in columns, whose
    values are ranks.

    ``logits``: (H, n, n). Returns float64, (n, n), 0 on the diagonal.
    """
    n_others = logits.shape[-1] - 1
    by_row = _ranks_of_others(logits)
    by_column = _ranks_of_others(by_row.transpose(-1, -2).contiguous()).transpose(-1, -2)
    # Halves of small whole numbers: their sum over heads is exact.
    weights = (by_column.sum(0).cpu().double() / len(logits) + 0.5) / max(n_others, 1)
    return weights.fill_diagonal_(0)


def _ranks_of_others(values: torch.Tensor) -> torch.Tensor:
    """Mean ranks from 0 in every row without its diagonal, (H, n, n); those of the diagonal mean nothing."""
    values = values.clone()
    # Below all others, which ranks then leave out by beginning at -1.
    values.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    ordered, order = values.sort(dim=-1)
    place = torch.arange(-1, values.shape[-1] - 1, device=values.device).expand_as(order)
    differs = ordered[..., 1:] != ordered[..., :-1]
    first, last = place.clone(), place.clone()
    first[..., 1:][~differs] = -1
    last[..., :-1][~differs] = values.shape[-1]
    of_tie = first.cummax(-1).values + last.flip(-1).cummin(-1).values.flip(-1)
    return torch.empty_like(values).scatter_(-1, order, of_tie.to(values.dtype) / 2)
