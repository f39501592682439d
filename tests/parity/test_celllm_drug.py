"""Drugs are read and encoded as the released code did it: every array of the fixtures of CellLM's drug branch."""

import json

import numpy as np
import pytest
import torch

from scfoundry.data.molecules import N_FEATURES, join_molecules, molecule_graphs
from scfoundry.model.celllm._drug import released_drug_encoder
from scfoundry.nn.checkpoint import CheckpointError

CLOSE = {"atol": 2e-5, "rtol": 0}

pytest.importorskip("rdkit", reason="the extra drug is not installed")
pytest.importorskip("torch_geometric", reason="the extra drug is not installed")


@pytest.fixture(scope="module")
def folder(parity_folder):
    return parity_folder("celllm")


@pytest.fixture(scope="module")
def smiles(folder):
    return dict(enumerate(json.loads((folder / "drug_smiles.json").read_text())))


@pytest.fixture(scope="module")
def arrays(folder):
    return dict(np.load(folder / "drug_arrays.npz"))


@pytest.fixture(scope="module")
def tensors(folder):
    return {name: torch.from_numpy(array) for name, array in np.load(folder / "drug_state_dict.npz").items()}


@pytest.fixture(scope="module")
def encoder(tensors):
    return released_drug_encoder(tensors, source="drug_state_dict.npz")


@pytest.fixture(scope="module")
def graphs(smiles):
    return list(molecule_graphs(smiles).values())


def as_tensors(graphs):
    *arrays, n_molecules = join_molecules(graphs)
    return [*map(torch.from_numpy, arrays), n_molecules]


def test_atoms_and_bonds(graphs, arrays):
    batch = join_molecules(graphs)
    assert batch.atoms.shape[1] == N_FEATURES == 77
    np.testing.assert_array_equal(batch.atoms, arrays["x"])
    np.testing.assert_array_equal(batch.edges, arrays["edge_index"])
    np.testing.assert_array_equal(batch.molecule, arrays["graph_id"])
    np.testing.assert_array_equal([len(graph.atoms) for graph in graphs], arrays["n_atoms"])


@torch.no_grad()
def test_every_layer_and_the_embedding(encoder, graphs, arrays):
    atoms, edges, molecule, n_molecules = as_tensors(graphs)
    states = encoder.atom_states(atoms, edges)
    assert states.shape[1] == arrays["pooled"].shape[1] == len(encoder.layers) * encoder.norms[0].num_features
    np.testing.assert_allclose(encoder.pool(states, molecule, n_molecules), arrays["pooled"], **CLOSE)
    found = encoder(atoms, edges, molecule, n_molecules)
    np.testing.assert_allclose(found, arrays["drug_embedding"], **CLOSE)


@torch.no_grad()
def test_order_and_batches_of_molecules_play_no_part(encoder, graphs, arrays):
    order = np.random.default_rng(0).permutation(len(graphs))
    found = encoder(*as_tensors([graphs[i] for i in order]))
    np.testing.assert_allclose(found, arrays["drug_embedding"][order], **CLOSE)
    alone = torch.cat([encoder(*as_tensors([graph])) for graph in graphs])
    np.testing.assert_allclose(alone, arrays["drug_embedding"], **CLOSE)


def test_every_released_tensor_is_used(encoder, tensors):
    assert len(encoder.state_dict()) == len(tensors)
    for name, tensor in encoder.state_dict().items():
        stem, _, rest = name.partition(".")
        released = {"layers": "GNN_drug.convs_drug.", "norms": "GNN_drug.bns_drug.", "linear": "drug_emb.0."}[stem]
        assert torch.equal(tensor, tensors[released + rest])


def test_other_parts_of_the_file_are_passed_over_and_gaps_are_not(tensors):
    more = tensors | {"token_emb.weight": torch.ones(1)}
    assert not released_drug_encoder(more, source="a file").training
    with pytest.raises(CheckpointError, match=r"1 missing: norms\.1\.running_var"):
        released_drug_encoder({n: t for n, t in tensors.items() if n != "GNN_drug.bns_drug.1.running_var"}, source="a")
    with pytest.raises(CheckpointError, match=r"1 unexpected: drug_emb\.4\.bias"):
        released_drug_encoder(tensors | {"drug_emb.4.bias": torch.ones(1)}, source="a")
    with pytest.raises(CheckpointError, match=r"lacks .*convs_drug\.0\.nn\.0\.weight"):
        released_drug_encoder({"token_emb.weight": torch.ones(1)}, source="a")
