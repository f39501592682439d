"""Negative binomial likelihood of sparse counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.nn.counts import SparseCounts

__all__ = ["negative_binomial_loss"]

EPS = 1e-10


def negative_binomial_loss(
    counts: SparseCounts,
    mean: Tensor,
    dispersion: Tensor,
    *,
    genes: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Negative log-likelihood per cell, the mean rescaled to the cell's total.

    With dispersion :math:`r_j` and :math:`m_{ij} = \mu_{ij} \sum_j x_{ij} / \sum_j \mu_{ij}`,

    .. math::
        -\log p(x_{ij}) = \log\Gamma(r_j) + \log\Gamma(x_{ij} + 1) - \log\Gamma(x_{ij} + r_j)
        + (r_j + x_{ij}) \log(1 + m_{ij} / r_j) + x_{ij} (\log r_j - \log m_{ij}).

    For :math:`x_{ij} = 0` this is :math:`r_j \log(1 + m_{ij} / r_j)`: the gamma functions are evaluated on the stored
    entries only, and the counts are never dense.

    ``mean``, (n, g), and ``dispersion``, (g,), are over ``genes`` (vocabulary positions; all in order if `None`).
    Entries that count, for the rescaling too, are marked in ``keep``, (n, g). Returned are the loss summed over genes,
    (n,), and the factor that rescaled the mean, (n,).
    """
    n_cells = counts.n_cells
    rows, columns, values = counts.rows, counts.genes, counts.values
    if genes is not None:
        column_of = torch.full((counts.n_genes,), -1, device=genes.device)
        column_of[genes] = torch.arange(len(genes), device=genes.device)
        columns = column_of[columns]
    counted = values > 0
    if genes is not None:
        counted = counted & (columns >= 0)
    if keep is not None:
        counted = counted & keep[rows, columns.clamp(min=0)]
    rows, columns, values = rows[counted], columns[counted], values[counted].to(mean.dtype)

    kept_mean = mean if keep is None else mean * keep
    observed = mean.new_zeros(n_cells).index_add(0, rows, values)
    factor = observed / kept_mean.sum(1).clamp(min=EPS)

    scaled = mean * factor[:, None]  # (n, g)
    log_odds = torch.log1p(scaled / (dispersion + EPS))
    at_zero = dispersion * log_odds
    loss = (at_zero if keep is None else at_zero * keep).sum(1)

    r = dispersion[columns] + EPS
    m = scaled[rows, columns]
    correction = (
        torch.lgamma(r)
        + torch.lgamma(values + 1)
        - torch.lgamma(values + r)
        + values * log_odds[rows, columns]
        + values * (torch.log(r) - torch.log(m + EPS))
    )
    return loss.index_add(0, rows, correction), factor
