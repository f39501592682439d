r"""A graph autoencoder that guesses what was hidden of nodes from their neighbours (GraphMAE, Hou et al. 2022).

Features of some nodes are replaced by a learned one, graph convolutions encode all nodes, the states of the same nodes
are hidden once more, and a graph convolution decodes them from the states of their neighbours. The loss is the scaled
cosine error over the hidden nodes M:

.. math:: \frac{1}{|M|} \sum_{i \in M} (1 - \cos(x_i, \hat x_i))^\gamma
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import linalg, sparse
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["graph_vectors", "scaled_cosine_error"]

# Power of the error, by which easy nodes count less, and layers of the encoder: common choices of the authors.
GAMMA, N_LAYERS = 2.0, 2
# Features of a node: its place on the leading eigenvectors of the graph.
N_FEATURES = 128


class GraphVectors(NamedTuple):
    """Vectors of the nodes, (n, D) float32, and the loss of every epoch."""

    vectors: NDArray[np.float32]
    losses: list[float]


class MaskedGraphAutoencoder(nn.Module):
    """Encoder and decoder of nodes by graph convolutions, which are torch-geometric's.

    ``n_features``: features F of a node. ``n_hidden``: width D of its state.
    """

    def __init__(self, n_features: int, n_hidden: int) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import GCNConv
        except ModuleNotFoundError as error:
            msg = (
                "Graph convolutions come from the package torch-geometric, which is not installed: "
                'pip install "scfoundry-models[graph]".'
            )
            raise ImportError(msg) from error
        widths = [n_features, *[n_hidden] * N_LAYERS]
        self.mask = nn.Parameter(torch.zeros(n_features))
        # The adjacency comes normalised, so that this is not done anew at every step.
        self.encoder = nn.ModuleList(GCNConv(width, n_hidden, normalize=False) for width in widths[:-1])
        self.activations = nn.ModuleList(nn.PReLU() for _ in range(N_LAYERS - 1))
        self.to_decoder = nn.Linear(n_hidden, n_hidden, bias=False)
        self.decoder = GCNConv(n_hidden, n_features, normalize=False)

    def encode(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """States of n nodes, (n, F) to (n, D); ``adjacency``: normalised, (n, n) in CSR."""
        first, *others = self.encoder
        x = first(x, adjacency)
        for activation, layer in zip(self.activations, others, strict=True):
            x = layer(activation(x), adjacency)
        return x

    def forward(self, x: Tensor, adjacency: Tensor, hidden: Tensor) -> Tensor:
        """Loss of the nodes that are hidden, (n,) bool."""
        states = self.encode(torch.where(hidden[:, None], self.mask, x), adjacency)
        again = self.to_decoder(states).masked_fill(hidden[:, None], 0)
        return scaled_cosine_error(self.decoder(again, adjacency)[hidden], x[hidden])


def scaled_cosine_error(guesses: Tensor, truth: Tensor, gamma: float = GAMMA) -> Tensor:
    """Mean over rows (m, F) of one minus their cosine, to the power of ``gamma``."""
    return (1 - F.cosine_similarity(guesses, truth)).pow(gamma).mean()


def graph_vectors(
    edges: sparse.csr_matrix,
    *,
    n_dims: int,
    mask_ratio: float,
    max_epochs: int,
    lr: float,
    seed: int,
    device: torch.device,
) -> GraphVectors:
    """Train an autoencoder on a graph and encode its n nodes.

    ``edges``: weights of the edges, (n, n), symmetric, none below 0, no node without one. Vectors are scaled to a mean
    square of 1, that of a fresh table of embeddings. Apple's GPU, for which torch has no sparse products, is left out.
    """
    device = torch.device("cpu") if device.type == "mps" else device
    normalised = normalised_adjacency(edges)
    features = spectral_features(normalised, min(N_FEATURES, edges.shape[0]), seed)
    x = torch.from_numpy(features).to(device)
    adjacency = as_tensor(normalised).to(device)
    n_hidden = math.ceil(mask_ratio * len(x))
    losses = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = MaskedGraphAutoencoder(x.shape[1], n_dims).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for _ in range(max_epochs):
            hidden = torch.zeros(len(x), dtype=torch.bool)
            hidden[torch.randperm(len(x))[:n_hidden]] = True
            loss = model(x, adjacency, hidden.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with torch.no_grad():
        vectors = model.encode(x, adjacency)
    vectors = vectors / vectors.square().mean().sqrt().clamp(min=torch.finfo(vectors.dtype).tiny)
    return GraphVectors(vectors.cpu().numpy(), losses)


def normalised_adjacency(edges: sparse.csr_matrix) -> sparse.csr_matrix:
    r"""Symmetric normalisation with every node beside its neighbours (Kipf and Welling 2017), float32, (n, n).

    A node weighs as much as the strongest edge: :math:`D^{-1/2} (A / \max A + I) D^{-1/2}`.
    """
    with_self = edges / edges.max() + sparse.eye_array(edges.shape[0])
    scale = sparse.diags_array(1 / np.sqrt(np.asarray(with_self.sum(1)).ravel()))
    return sparse.csr_matrix(scale @ with_self @ scale).astype(np.float32)


def as_tensor(matrix: sparse.csr_matrix) -> Tensor:
    """The same matrix in torch."""
    rows, columns = (torch.from_numpy(numbers.astype(np.int64)) for numbers in (matrix.indptr, matrix.indices))
    values, size = torch.from_numpy(matrix.data), matrix.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(rows, columns, values, size=size, check_invariants=True)


def spectral_features(adjacency: sparse.csr_matrix, n: int, seed: int) -> NDArray[np.float32]:
    """Rows of the n leading eigenvectors by their eigenvalues, of unit length, (nodes, n) float32."""
    n_nodes = adjacency.shape[0]
    if n_nodes <= 4 * n:
        dense = adjacency.toarray().astype(np.float64)
        values, vectors = linalg.eigh(dense, subset_by_index=[n_nodes - n, n_nodes - 1])
    else:
        start = np.random.default_rng(seed).random(n_nodes)
        values, vectors = eigsh(adjacency.astype(np.float64), n, which="LA", v0=start)
    # Of either sign; the same one wherever they are computed.
    strongest = np.abs(vectors).argmax(0)
    scaled = vectors * np.sign(vectors[strongest, np.arange(n)]) * np.abs(values)
    return (scaled / np.linalg.norm(scaled, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)
