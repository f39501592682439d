"""A codebook that starts where the vectors are, that no code leaves for long, and that reading never changes."""

import subprocess
import sys

import pytest
import torch
from torch import distributed

from scfoundry.nn.quantiser import VectorQuantiser, perplexity

N_RANKS = 2


def vectors(n=400, width=6, *, seed=0):
    """Vectors around five centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(5, width, generator=generator)
    return centres[torch.arange(n) % 5] + 0.1 * torch.randn(n, width, generator=generator)


@pytest.fixture
def quantiser():
    torch.manual_seed(0)
    return VectorQuantiser(8, 6)


def with_affine(quantiser):
    """The map that all codes share, far from where it starts."""
    with torch.no_grad():
        quantiser.scale.normal_(0, 0.05)
        quantiser.shift.normal_(0, 0.3)
    return quantiser


def test_the_nearest_code_is_taken_and_gradients_pass_it(quantiser):
    z = vectors(30).view(5, 6, 6).requires_grad_()
    found = with_affine(quantiser)(z)
    codes = quantiser.codebook()
    assert torch.equal(found.codes, torch.cdist(z.detach(), codes.detach()).argmin(-1))
    torch.testing.assert_close(found.vectors, codes[found.codes])
    (gradient,) = torch.autograd.grad((found.vectors * 3).sum(), z)
    torch.testing.assert_close(gradient, torch.full_like(z, 3))


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.95])
def test_beta_divides_the_distance_between_vectors_and_codes(beta):
    torch.manual_seed(0)
    quantiser = VectorQuantiser(8, 6, beta=beta)
    z = vectors(30).requires_grad_()
    found = quantiser(z)
    distance = z.detach() - quantiser.codebook().detach()[found.codes]
    torch.testing.assert_close(found.loss, distance.square().mean())
    of_vectors, of_codes = torch.autograd.grad(found.loss, (z, quantiser.stored))
    torch.testing.assert_close(of_vectors, 2 * (1 - beta) * distance / distance.numel())
    expected = torch.zeros_like(of_codes).index_add(0, found.codes, -2 * beta * distance / distance.numel())
    torch.testing.assert_close(of_codes, expected)


def test_codes_that_nothing_uses_move_with_the_map_that_all_share(quantiser):
    z = vectors(30) + 20
    found = quantiser(z)
    unused = torch.tensor([code not in found.codes for code in range(8)])
    assert unused.any()
    optimizer = torch.optim.SGD(quantiser.parameters(), lr=0.01)
    before = quantiser.codebook().detach().clone()
    found.loss.backward()
    optimizer.step()
    moved = (quantiser.codebook() - before)[unused]
    assert (moved.mean(1) > 0).all()
    still = VectorQuantiser(8, 6, affine_rate=0)
    still(z).loss.backward()
    assert still.scale.grad.abs().sum() == still.shift.grad.abs().sum() == 0


def test_every_code_is_in_use_after_the_start_and_there_is_one_start(quantiser):
    z = vectors()
    with_affine(quantiser).start(z)
    assert set(quantiser(z).codes.tolist()) == set(range(8))
    codes = quantiser.codebook().clone()
    quantiser.start(z + 100)
    assert torch.equal(quantiser.codebook(), codes)


def test_a_start_with_fewer_vectors_than_codes(quantiser):
    z = vectors(3)
    quantiser.start(z.repeat(4, 1))
    assert quantiser(z).loss < 1e-10


def test_a_code_that_is_not_used_for_so_many_batches_moves_to_a_vector_and_stays_in_that_step(quantiser):
    z = vectors()
    with_affine(quantiser)
    optimizer = torch.optim.AdamW(quantiser.parameters(), lr=0.1)
    for _ in range(3):
        # All of the codes have momentum.
        (quantiser(z).loss + quantiser.stored.square().sum()).backward()
        optimizer.step()
    with torch.no_grad():
        quantiser.stored[2:4] = 1000
    for batch in range(1, 6):
        optimizer.zero_grad()
        found = quantiser(z)
        quantiser.count_use(found.codes)
        found.loss.backward()
        optimizer.step()
        before = quantiser.codebook().detach().clone()
        torch.manual_seed(batch)
        replaced = quantiser.replace_unused(z, after=5, optimizer=optimizer)
        assert (replaced > 0) == (batch == 5)
    far = [2, 3]
    assert not quantiser.unused_for[far].any()
    assert not optimizer.state[quantiser.stored]["exp_avg"][far].any()
    codes = quantiser.codebook().detach()
    assert (torch.cdist(codes[far], z).min(1).values < 0.03 * codes[far].norm(dim=1)).all()
    kept = [code for code in range(8) if torch.equal(codes[code], before[code])]
    assert len(kept) == 8 - replaced
    assert set(far) <= set(quantiser(z).codes.tolist())


@pytest.mark.parametrize("training", [True, False])
def test_reading_changes_nothing(quantiser, training):
    with_affine(quantiser).start(vectors())
    quantiser.train(training)
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    first, second = (quantiser(vectors(seed=1)).vectors for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in quantiser.state_dict().items())


def test_codes_in_use():
    assert perplexity(torch.tensor([[0, 1], [2, 3]]), 8) == pytest.approx(4)
    assert perplexity(torch.zeros(9, dtype=torch.int64), 8) == pytest.approx(1)


def on_a_rank(rank, folder):
    """Training steps of one process on vectors of its own, whose codebook is left in a file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=N_RANKS)
    torch.manual_seed(0)
    quantiser = VectorQuantiser(8, 6)
    parallel = torch.nn.parallel.DistributedDataParallel(quantiser, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(quantiser.parameters(), lr=0.05)
    torch.manual_seed(10 + rank)
    n_replaced = 0
    for step in range(6):
        z = vectors(60, seed=100 * rank + step) + 30 * rank + 5 * step
        quantiser.start(z)
        found = parallel(z)
        quantiser.count_use(found.codes)
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        n_replaced += quantiser.replace_unused(z, after=2, optimizer=optimizer)
    torch.save((quantiser.state_dict(), n_replaced), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_all_processes_hold_the_same_codebook(tmp_path):
    # Not forked: a child would wait for threads of torch that it does not have.
    run = "import runpy, sys; runpy.run_path(sys.argv[1])['on_a_rank'](int(sys.argv[2]), sys.argv[3])"
    commands = [[sys.executable, "-c", run, __file__, str(rank), str(tmp_path)] for rank in range(N_RANKS)]
    ranks = [subprocess.Popen(command) for command in commands]  # noqa: S603
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * N_RANKS
    (first, n_replaced), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(N_RANKS))
    assert n_replaced > 0
    assert all(torch.equal(first[name], second[name]) for name in first)
