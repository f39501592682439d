r"""Vectors of molecules by a graph isomorphism network (Xu et al. 2019, equation 4.1).

An atom sums the states of its neighbours N(v) and its own; no weight of its own for itself is learned:

.. math:: h_v \leftarrow \mathrm{BatchNorm}(\mathrm{ReLU}(\mathrm{MLP}((1 + \epsilon) h_v + \sum_{u \in N(v)} h_u)))

The states after all layers stand side by side, their maximum over the atoms is the molecule's, as in TGSA (Zhu et al.
2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MoleculeEncoder"]


class MoleculeEncoder(nn.Module):
    """Encoder of molecules by graph isomorphism convolutions, which are torch-geometric's.

    ``n_features``: features F of an atom. ``n_hidden``: width D of its state. ``n_layers``: L. ``n_output``: width of a
    molecule's vector. ``dropout`` is that of the vector. ImportError: if torch-geometric is not installed.
    """

    def __init__(
        self, n_features: int, n_hidden: int = 128, n_layers: int = 3, n_output: int = 256, dropout: float = 0.2
    ) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import GINConv
        except ModuleNotFoundError as error:
            msg = (
                "Graph convolutions come from the package torch-geometric, which is not installed: "
                'pip install "scfoundry-models[drug]".'
            )
            raise ImportError(msg) from error
        widths = [n_features, *[n_hidden] * (n_layers - 1)]
        self.layers = nn.ModuleList(
            GINConv(nn.Sequential(nn.Linear(width, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_hidden)))
            for width in widths
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(n_hidden) for _ in widths)
        self.linear = nn.Linear(n_layers * n_hidden, n_output)
        self.dropout = nn.Dropout(dropout)

    def atom_states(self, atoms: Tensor, edges: Tensor) -> Tensor:
        """States of n atoms after all layers, (n, F) and (2, e) to (n, L D)."""
        x, states = atoms.to(self.linear.weight.dtype), []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x, edges).relu())
            states.append(x)
        return torch.cat(states, dim=1)

    def pool(self, states: Tensor, molecule: Tensor, n_molecules: int) -> Tensor:
        """Maximum over the atoms of every molecule, (n, L D) and (n,) to (n_molecules, L D)."""
        from torch_geometric.nn import global_max_pool

        return global_max_pool(states, molecule, n_molecules)

    def forward(self, atoms: Tensor, edges: Tensor, molecule: Tensor, n_molecules: int) -> Tensor:
        """Vectors of molecules, (n_molecules, n_output), none below 0; `MoleculeBatch` has what it reads."""
        pooled = self.pool(self.atom_states(atoms, edges), molecule, n_molecules)
        return self.dropout(self.linear(pooled).relu())
