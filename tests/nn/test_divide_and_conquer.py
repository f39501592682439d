"""Divide and conquer: gradients are those of the whole batch at once, whatever is random, scaled or distributed."""

import subprocess
import sys

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from scfoundry.nn import divide_and_conquer
from scfoundry.nn.contrastive import two_view_loss
from scfoundry.nn.divide_and_conquer import SharedParameters, encode_in_parts
from scfoundry.nn.favor import favor_attention, orthogonal_features

N_CELLS, N_TOKENS, WIDTH = 12, 7, 16
TEMPERATURE = 0.05


class Encoder(nn.Module):
    """Attention by random projections between two layers with dropout; of a cell also a number, for another loss."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.into, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.number, self.dropout = nn.Linear(WIDTH, 1), nn.Dropout(dropout)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("omega", orthogonal_features(8, WIDTH // 2))

    def forward(self, x):
        q, k, v = (y.unflatten(2, (2, -1)).transpose(1, 2) for y in self.into(self.dropout(x)).chunk(3, 2))
        attended = favor_attention(q, k, v, self.omega, torch.ones(x.shape[:2]))
        states = self.dropout(attended.transpose(1, 2).flatten(2).to(x.dtype)).relu().mean(1)
        return self.project(states), self.number(states)[:, 0]


def built(dtype=torch.float64, dropout=0.1):
    torch.manual_seed(0)
    return Encoder(dropout).to(dtype), torch.randn(N_CELLS, N_TOKENS, WIDTH, dtype=dtype)


def loss_of(outputs):
    """Contrast of two views, and another loss of the first."""
    representations, numbers = outputs
    first, second = representations.chunk(2)
    return two_view_loss(first, second, TEMPERATURE) + F.mse_loss(numbers[: len(first)], torch.arange(len(first)) / 9)


def end_to_end(encode, parts):
    """Everything in memory, with the same random numbers."""
    return tuple(torch.cat(output) for output in zip(*map(encode, parts), strict=True))


def gradients(module, take, parts, *, seed=3, scale=1.0, loss_of=loss_of):
    module.zero_grad()
    torch.manual_seed(seed)
    loss = loss_of(take(module, parts))
    (loss * scale).backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    return loss.detach(), {name: gradient / scale for name, gradient in found.items()}


def divided(module, parts):
    return encode_in_parts(module, parts, module.parameters())


def error(found, expected):
    assert found.keys() == expected.keys()
    ours, theirs = (torch.cat([gradients[name].flatten() for name in expected]) for gradients in (found, expected))
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("size", [1, 3, 5, 11, 12])
def test_gradients_are_those_of_the_whole_batch(dtype, most, size):
    module, cells = built(dtype)
    parts = [*cells.split(size), *cells.split(size)]
    expected_loss, expected = gradients(module, end_to_end, parts)
    loss, found = gradients(module, divided, parts)
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=0)
    assert error(found, expected) <= most
    assert "unused.weight" not in found


def test_without_dropout_the_cut_plays_no_part():
    module, cells = built(dropout=0.0)
    results = [gradients(module, divided, [*cells.split(size), *cells.split(size)]) for size in (1, 5, 12)]
    for _, found in results[1:]:
        assert error(found, results[0][1]) <= 1e-6


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(divide_and_conquer, "TOLERANCE", torch.inf)


@pytest.fixture
def without_replay(monkeypatch):
    monkeypatch.setattr(divide_and_conquer, "set_generator_states", lambda states: None)


@pytest.mark.usefixtures("unchecked", "without_replay")
def test_without_replay_gradients_are_wrong():
    module, cells = built()
    parts = [*cells.split(3), *cells.split(3)]
    assert error(gradients(module, divided, parts)[1], gradients(module, end_to_end, parts)[1]) > 0.1


def redrawn(module):
    module.omega.copy_(orthogonal_features(8, WIDTH // 2))


@pytest.mark.parametrize("change", [redrawn, nn.Module.eval], ids=["projections", "dropout"])
def test_an_encoder_that_changes_before_gradients_are_taken_is_refused(change):
    module, cells = built()
    loss = loss_of(divided(module, [*cells.split(3), *cells.split(3)]))
    change(module)
    with pytest.raises(
        RuntimeError, match=r"other outputs for the same rows .*%.* leave its weights and its train\(\)"
    ):
        loss.backward()


@pytest.mark.usefixtures("without_replay")
def test_random_numbers_of_another_source_are_refused():
    module, cells = built()
    with pytest.raises(RuntimeError, match="draw random numbers from torch's global generators"):
        gradients(module, divided, [*cells.split(3), *cells.split(3)])


def test_weights_that_change_before_gradients_are_taken_are_refused():
    module, cells = built()
    loss = loss_of(divided(module, [*cells.split(3), *cells.split(3)]))
    with torch.no_grad():
        module.project.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_random_numbers_after_the_step_are_those_without_gradients():
    module, cells = built()
    parts = [*cells.split(5), *cells.split(5)]
    after = []
    for backward in (True, False):
        torch.manual_seed(0)
        loss = loss_of(divided(module, parts))
        if backward:
            loss.backward()
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_gradients_of_a_scaled_loss():
    module, cells = built(torch.float32)
    parts = [*cells.split(5), *cells.split(5)]
    assert error(gradients(module, divided, parts, scale=2.0**12)[1], gradients(module, end_to_end, parts)[1]) <= 1e-4


def test_autocast_is_that_of_the_first_pass_and_leaves_other_gradients_alone():
    module, cells = built(torch.float32)
    parts = [*cells.split(5), *cells.split(5)]

    def within(take):
        def under_autocast(module, parts):
            with torch.autocast("cpu", torch.bfloat16):
                outputs = take(module, parts)
                # A further pass with gradients, by the same weights, in the same autocast.
                return outputs[0].float(), outputs[1] + module(cells)[1].repeat(2)

        return under_autocast

    _, found = gradients(module, within(divided), parts)
    _, expected = gradients(module, within(end_to_end), parts)
    assert error(found, expected) <= 2e-2  # gradients of weights are rounded part by part
    assert error(found, gradients(module, end_to_end, parts)[1]) > 1e-3


def test_only_one_part_is_in_memory():
    """Tensors that autograd keeps at any time are those of one part, not of the batch."""
    module, cells = built(torch.float32)

    def most_kept(size):
        kept, most = 0, 0

        class Kept:
            def __init__(self, tensor):
                nonlocal kept, most
                self.tensor, self.numel = tensor.detach(), tensor.numel()
                kept += self.numel
                most = max(most, kept)

            def __del__(self):
                nonlocal kept
                kept -= self.numel

        many = cells.repeat(20, 1, 1)
        parts = many.split(size)
        encode = lambda part: tuple(output[:, None] for output in module(part)[1:])  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda saved: saved.tensor):
            (numbers,) = encode_in_parts(encode, parts, module.parameters())
            numbers.square().sum().backward()
        return most

    small, large = most_kept(10), most_kept(240)
    assert small < large / 10


def test_gradients_of_a_part_are_not_held_beside_their_sums(monkeypatch):
    module, cells = built()
    grad, held = torch.autograd.grad, []

    def noting(*what, **how):
        found = grad(*what, **how)
        held.append([g.untyped_storage().nbytes() for g in found if g is not None])
        return found

    monkeypatch.setattr(torch.autograd, "grad", noting)
    gradients(module, divided, [*cells.split(3), *cells.split(3)])
    assert len(held) == 8
    assert all(sizes and max(sizes) <= torch.float64.itemsize for sizes in held)


def test_calls_for_one_loss_share_one_sum(monkeypatch):
    module, cells = built()
    parts, sums = cells.split(5), []

    def twice(parameters):
        def take(module, parts):
            first = encode_in_parts(module, parts, parameters)
            numbers = encode_in_parts(lambda part: module(part)[1:], [part.square() for part in parts], parameters)[0]
            return torch.cat([first[0], first[0] * numbers[:, None]]), first[1]

        return take

    expected = gradients(module, twice(list(module.parameters())), parts)[1]
    added = divide_and_conquer.added_one_by_one
    monkeypatch.setattr(divide_and_conquer, "added_one_by_one", lambda p, s: sums.append(s) or added(p, s))
    found = gradients(module, twice(SharedParameters(module.parameters())), parts)[1]
    assert error(found, expected) <= 1e-12
    places = [[None if x is None else x.data_ptr() for x in some] for some in sums]
    # Those of the later call, whose gradients come first, are what the earlier one adds to.
    assert all(before in (None, after) for before, after in zip(places[0], places[-1], strict=True))
    assert any(places[0])


def test_parameters_that_get_the_same_gradient_tensor():
    first, second = (torch.zeros(3, requires_grad=True) for _ in range(2))
    (sums,) = encode_in_parts(lambda part: ((first + second)[None] * part,), torch.eye(3).split(1), (first, second))
    sums.sum().backward()
    assert torch.equal(first.grad, torch.ones(3))
    assert torch.equal(second.grad, torch.ones(3))


def test_nothing_is_kept_without_gradients():
    module, cells = built()
    with torch.no_grad():
        outputs = divided(module, cells.split(5))
    assert not any(output.requires_grad for output in outputs)


SHARES = (7, 5)


class Step(nn.Module):
    """What a Lightning module is to DDP: its forward takes the loss."""

    def __init__(self, module, parts):
        super().__init__()
        self.module, self.parts = module, parts

    def forward(self):
        return two_view_loss(*divided(self.module, self.parts)[0].chunk(2), TEMPERATURE)


def on_a_rank(rank, folder):
    """The step of one process, whose loss and gradients are left in a file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(SHARES))
    module, cells = built()
    mine = cells.split(SHARES)[rank]
    parallel = DistributedDataParallel(Step(module, [*mine.split(3), *mine.split(3)]), find_unused_parameters=True)
    torch.manual_seed(10 + rank)
    loss = parallel()
    loss.backward()
    torch.save((loss.detach(), {name: p.grad for name, p in module.named_parameters()}), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_negatives_of_all_processes(tmp_path):
    # Not forked: a child would wait for threads of torch that it does not have.
    run = "import runpy, sys; runpy.run_path(sys.argv[1])['on_a_rank'](int(sys.argv[2]), sys.argv[3])"
    commands = [[sys.executable, "-c", run, __file__, str(rank), str(tmp_path)] for rank in range(len(SHARES))]
    ranks = [subprocess.Popen(command) for command in commands]  # noqa: S603
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    module, cells = built()
    views = []
    for rank, mine in enumerate(cells.split(SHARES)):
        torch.manual_seed(10 + rank)
        views.append([torch.cat([module(part)[0] for part in mine.split(3)]) for _ in range(2)])
    loss = two_view_loss(*map(torch.cat, zip(*views, strict=True)), TEMPERATURE)
    loss.backward()
    expected = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    for rank in range(len(SHARES)):
        found_loss, found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found_loss, loss.detach(), rtol=1e-12, atol=0)
        assert error({name: found[name] for name in expected}, expected) <= 1e-6


@pytest.mark.parametrize(("n", "latent"), [(1, 4), (600, 8), (1100, 8)])
def test_similarities_in_blocks_are_those_of_all_rows(n, latent):
    first, second = torch.randn(2, n, latent, dtype=torch.float64).requires_grad_()
    cosine = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
    expected = F.cross_entropy(cosine / TEMPERATURE, torch.arange(n))
    loss = two_view_loss(first, second, TEMPERATURE)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(x, (first, second)) for x in (loss, expected))
    for pair in zip(found, wanted, strict=True):
        torch.testing.assert_close(*pair)
