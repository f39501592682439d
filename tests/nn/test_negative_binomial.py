import pytest
import torch
from scipy import sparse
from torch.distributions import NegativeBinomial

from scfoundry.nn.counts import SparseCounts
from scfoundry.nn.negative_binomial import negative_binomial_loss


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.rand(6, 11, generator=generator) * 3, generator=generator)
    mean = torch.rand(6, 11, generator=generator, dtype=torch.float64) + 0.1
    dispersion = torch.rand(11, generator=generator, dtype=torch.float64) * 5 + 0.1
    return x, SparseCounts.from_csr(sparse.csr_matrix(x.numpy())), mean, dispersion


def dense_loss(x, mean, dispersion, keep):
    """The same by torch's own distribution, on dense counts."""
    scaled = mean * (x * keep).sum(1, keepdim=True) / (mean * keep).sum(1, keepdim=True)
    log_p = NegativeBinomial(dispersion, logits=(scaled.clamp(min=1e-12) / dispersion).log()).log_prob(x)
    return -(log_p * keep).sum(1)


def test_agrees_with_the_dense_distribution(problem):
    x, counts, mean, dispersion = problem
    loss, factor = negative_binomial_loss(counts, mean, dispersion)
    torch.testing.assert_close(loss, dense_loss(x, mean, dispersion, torch.ones_like(x)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((mean * factor[:, None]).sum(1), x.sum(1).double())


def test_only_kept_entries_count(problem):
    x, counts, mean, dispersion = problem
    keep = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    loss, _ = negative_binomial_loss(counts, mean, dispersion, keep=keep)
    torch.testing.assert_close(loss, dense_loss(x, mean, dispersion, keep), rtol=1e-5, atol=1e-5)


def test_genes_in_any_order(problem):
    x, counts, mean, dispersion = problem
    genes = torch.tensor([7, 2, 9, 0])
    loss, _ = negative_binomial_loss(counts, mean[:, genes], dispersion[genes], genes=genes)
    expected = dense_loss(x[:, genes], mean[:, genes], dispersion[genes], torch.ones(6, 4))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_a_cell_without_counts_costs_nothing(problem):
    x, _, mean, dispersion = problem
    x[2] = 0
    counts = SparseCounts.from_csr(sparse.csr_matrix(x.numpy()))
    loss, factor = negative_binomial_loss(counts, mean.requires_grad_(), dispersion)
    assert loss[2] == 0
    assert factor[2] == 0
    loss.sum().backward()
    assert mean.grad.isfinite().all()
