"""The encoder of molecules: its layer by hand, and how it learns."""

import sys

import pytest
import torch

from scfoundry.nn.molecule_encoder import MoleculeEncoder


@pytest.fixture
def encoder():
    pytest.importorskip("torch_geometric", reason="the extra drug is not installed")
    torch.manual_seed(0)
    return MoleculeEncoder(4, n_hidden=8, n_layers=2, n_output=6)


@pytest.fixture
def molecules():
    """A chain of three atoms, and an atom without bonds."""
    torch.manual_seed(1)
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    return torch.randn(4, 4), edges, torch.tensor([0, 0, 0, 1]), 2


@torch.no_grad()
def test_layers_by_hand(encoder, molecules):
    atoms, edges, molecule, _ = molecules
    encoder.eval()
    neighbours = torch.zeros(4, 4)
    neighbours[edges[0], edges[1]] = 1
    x, states = atoms, []
    for layer, norm in zip(encoder.layers, encoder.norms, strict=True):
        x = norm(layer.nn(x + neighbours @ x).relu())
        states.append(x)
    states = torch.cat(states, dim=1)
    torch.testing.assert_close(encoder.atom_states(atoms, edges), states)
    pooled = torch.stack([states[:3].amax(0), states[3]])
    torch.testing.assert_close(encoder.pool(states, molecule, 2), pooled)
    torch.testing.assert_close(encoder(*molecules), encoder.linear(pooled).relu())


def test_every_parameter_gets_a_gradient_and_nothing_but_them_learns(encoder, molecules):
    encoder(*molecules).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
    assert "layers.0.eps" in encoder.state_dict()
    assert "layers.0.eps" not in dict(encoder.named_parameters())


def test_without_the_extra_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "scfoundry-models\[drug\]"'):
        MoleculeEncoder(4)
