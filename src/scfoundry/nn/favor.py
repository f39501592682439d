r"""FAVOR+: softmax attention in linear time, by positive orthogonal random features (Choromanski et al. 2021).

The kernel of softmax is an expectation over Gaussian rows :math:`\omega` of a matrix, here orthogonal ones,

.. math:: e^{q \cdot k / \sqrt d} = \mathbb{E}\, \phi(q) \cdot \phi(k), \qquad
    \phi(u)_r = m^{-1/2} \left( e^{\omega_r \cdot c u - \| c u \|^2 / 2 - \text{max}} + \epsilon \right), \quad
    c = d^{-1/4}

so that sums over keys are taken once for all queries. The largest exponent is subtracted before: for every query by
itself, for keys over all heads and positions. Because :math:`\epsilon` is added after, the latter does not cancel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EPS",
    "Stabiliser",
    "exact_attention",
    "favor_attention",
    "favor_weights",
    "key_features",
    "orthogonal_features",
    "query_features",
]

Stabiliser = Literal["cell", "batch"]

EPS = 1e-4


def orthogonal_features(n_features: int, n_dims: int) -> Tensor:
    """Rows that are orthogonal within blocks of ``n_dims``, each as long as a Gaussian one, (m, d), at random."""
    n_blocks = math.ceil(n_features / n_dims)
    q, r = torch.linalg.qr(torch.randn(n_blocks, n_dims, n_dims))
    # LAPACK leaves the signs of columns to its algorithm: without these, directions would not be uniform (Mezzadri
    # 2007), and the estimate biased, as that of the released code of Performers is.
    q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    lengths = torch.randn(n_features, n_dims).norm(dim=1, keepdim=True)
    return q.transpose(1, 2).flatten(0, 1)[:n_features] * lengths


def exponents(x: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """Exponents, (..., L, m), of vectors (..., L, d), and half their squared norms, (..., L, 1).

    The exponents are the largest array of all by far: what is made of them takes their place.
    """
    x = x.to(omega.dtype) * x.shape[-1] ** -0.25
    return x @ omega.T, x.square().sum(-1, keepdim=True) / 2


def query_features(queries: Tensor, omega: Tensor) -> Tensor:
    r"""Features of queries, (..., T, d) to (..., T, m), without :math:`\epsilon` and :math:`m^{-1/2}`."""
    a, half = exponents(queries, omega)
    return a.sub_(half + a.detach().amax(-1, keepdim=True)).exp_()


def key_features(keys: Tensor, omega: Tensor, weights: Tensor, stabiliser: Stabiliser) -> Tensor:
    r"""Features of keys, (B, H, L, d) to (B, H, L, m), without :math:`\epsilon` and :math:`m^{-1/2}`.

    The largest exponent is that of a cell, or that of the whole batch as in the released code of Performers, by which
    results depend on what is computed together. Keys without weight, (B, L), play no part.
    """
    return scaled_features(keys, omega, weights, stabiliser)[0]


def scaled_features(keys: Tensor, omega: Tensor, weights: Tensor, stabiliser: Stabiliser) -> tuple[Tensor, Tensor]:
    """Those features, and the largest exponent that was subtracted, of cells or of the batch, (B or 1, 1, 1, 1)."""
    a, half = exponents(keys, omega)
    largest = a.detach().amax(-1)  # (B, H, L)
    idle = weights[:, None] == 0
    dims = (1, 2) if stabiliser == "cell" else (0, 1, 2)
    of_all = largest.masked_fill(idle, -torch.inf).amax(dims, keepdim=True)
    largest = torch.where(idle, largest, of_all)
    return a.sub_(half + largest[..., None]).exp_(), of_all[..., None]


def favor_attention(
    queries: Tensor, keys: Tensor, values: Tensor, omega: Tensor, weights: Tensor, stabiliser: Stabiliser = "cell"
) -> Tensor:
    """Attend from T positions to L others, (B, H, T, d), in time linear in both.

    ``keys`` and ``values``: (B, H, L, d). ``omega``: (m, d). ``weights``: how often each key is there, (B, L); 0 for
    none. A key whose value is zero takes its share of attention and gives nothing.
    """
    with torch.autocast(queries.device.type, enabled=False):
        values, weights = values.to(omega.dtype), weights.to(omega.dtype)
        valued = values * weights[:, None, :, None]
        # Features of one head fit into the cache of a processor, those of all do not.
        n_heads = queries.shape[1]
        together = 1 if queries.device.type == "cpu" else n_heads
        heads = [slice(first, first + together) for first in range(0, n_heads, together)]
        summed = [_sums(keys[:, h], valued[:, h], omega, weights, stabiliser) for h in heads]
        products, totals, largest = (torch.cat(parts, dim=1) for parts in zip(*summed, strict=True))
        # Every head subtracted its own largest exponent so far.
        scale = (largest - largest.amax(1, keepdim=True)).exp()  # (B or 1, H or 1, 1, 1)
        # Features without eps and m^(-1/2), which cancels; eps then adds sums of what they multiply.
        products = products * scale + EPS * valued.sum(-2, keepdim=True)  # (B, H, m, d)
        totals = totals * scale + EPS * weights.sum(-1)[:, None, None, None]  # (B, H, 1, m)
        return torch.cat([_attended(queries[:, h], products[:, h], totals[:, h], omega) for h in heads], dim=1)


def _sums(
    keys: Tensor, valued: Tensor, omega: Tensor, weights: Tensor, stabiliser: Stabiliser
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over keys of features times values, (B, h, m, d), of features, (B, h, 1, m); the largest exponents."""
    of_keys, largest = scaled_features(keys, omega, weights, stabiliser)
    return of_keys.mT @ valued, weights[:, None, None] @ of_keys, largest


def _attended(queries: Tensor, products: Tensor, totals: Tensor, omega: Tensor) -> Tensor:
    """What queries (B, h, T, d) get of the sums over keys."""
    of_queries = query_features(queries, omega)
    above = of_queries @ products + EPS * products.sum(-2, keepdim=True)  # (B, h, T, d)
    below = of_queries @ totals.mT + EPS * totals.sum(-1, keepdim=True)  # (B, h, T, 1)
    return above / below


def favor_weights(
    queries: Tensor, keys: Tensor, omega: Tensor, weights: Tensor, stabiliser: Stabiliser = "cell"
) -> Tensor:
    """The weights that `favor_attention` implies, (B, H, T, L); rows sum to 1, keys of several counted together."""
    with torch.autocast(queries.device.type, enabled=False):
        of_keys = key_features(keys, omega, weights, stabiliser) + EPS
        shares = (query_features(queries, omega) + EPS) @ of_keys.transpose(-1, -2) * weights[:, None, None]
        return shares / shares.sum(-1, keepdim=True)


def exact_attention(queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Softmax attention itself, in quadratic time, with the arguments of `favor_attention`."""
    bias = weights.log()[:, None, None].to(queries.dtype)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
