"""Drugs are read and encoded as the released code did it: every array of the fixtures of CellLM's drug branch."""

import json

import numpy as np
import pytest
import torch

from scfoundry.data.molecules import N_FEATURES, join_molecules, molecule_graphs
from scfoundry.nn.checkpoint import renamed
from scfoundry.nn.molecule_encoder import MoleculeEncoder

CLOSE = {"atol": 2e-5, "rtol": 0}
# Released stem -> our stem; what follows, such as "0.nn.2.weight", is the same.
STEMS = {"GNN_drug.convs_drug.": "layers.", "GNN_drug.bns_drug.": "norms.", "drug_emb.0.": "linear."}

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
    """The released encoder of drugs: every tensor is used."""
    ours = {renamed(name, STEMS): tensor for name, tensor in tensors.items()}
    n_layers = len({name.split(".")[1] for name in ours if name.startswith("layers.")})
    module = MoleculeEncoder(N_FEATURES, len(ours["layers.0.nn.0.weight"]), n_layers, len(ours["linear.weight"]))
    module.load_state_dict(ours)
    return module.eval()


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
