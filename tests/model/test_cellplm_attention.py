"""Linear Flow-Attention against the same formulas written with every pair of cells."""

import pytest
import torch

from scfoundry.model.cellplm._attention import EPS, FlowAttention, attend, flow_context


def quadratic(q, k, v):
    """Flow-Attention of Wu et al. 2022 through an explicit cell-by-cell matrix, (n, H, d)."""
    pairs = torch.einsum("ihd,jhd->hij", q + EPS, k + EPS)
    n = len(q)
    # Sums of (k_j + eps) over cells hold n eps where the released formulas hold one.
    correction = (n - 1) * EPS
    incoming = 1 / (pairs.sum(2) - correction * (q + EPS).sum(-1).T)  # (H, n)
    outgoing = 1 / (pairs.sum(1) - correction * (k + EPS).sum(-1).T)
    conserved_in = torch.einsum("ihd,jhd,hj->hi", q + EPS, k, outgoing) + EPS * (q + EPS).sum(-1).T
    conserved_out = torch.einsum("jhd,ihd,hi->hj", k + EPS, q, incoming) + EPS * (k + EPS).sum(-1).T
    competition = n * conserved_out.clamp(-1, 1).softmax(-1)
    weights = torch.einsum("ihd,jhd,hi,hi,hj->hij", q, k, incoming, conserved_in.sigmoid(), competition)
    return torch.einsum("hij,jhe->ihe", weights, v)


def sweep_over(*chunks):
    return lambda names: ([chunk["qkv".index(name)] for name in names] for chunk in chunks)


@pytest.fixture
def projection():
    torch.manual_seed(0)
    return torch.rand(19, 2, 4).double(), torch.rand(19, 2, 4).double(), torch.randn(19, 2, 4).double()


def test_equals_the_quadratic_form(projection):
    q, k, v = projection
    linear = attend(q, flow_context(sweep_over(projection)))
    torch.testing.assert_close(linear, quadratic(q, k, v).flatten(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 4, 7, 19])
def test_chunks_do_not_matter(projection, size):
    chunks = list(zip(*(x.split(size) for x in projection), strict=True))
    whole, chunked = flow_context(sweep_over(projection)), flow_context(sweep_over(*chunks))
    for a, b in zip(whole, chunked, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_order_of_cells_does_not_matter():
    attention = FlowAttention(8, 2).eval()
    h = torch.randn(13, 8)
    order = torch.randperm(13)
    torch.testing.assert_close(attention(h)[order], attention(h[order]))


def test_gradient_reaches_every_cell_of_the_context():
    attention = FlowAttention(8, 2)
    h = torch.randn(5, 8, requires_grad=True)
    attention(h)[0].sum().backward()
    assert (h.grad.abs().sum(1) > 0).all()
