"""Heads that recognise known cell types, seen in the training data or described by markers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from scfoundry.model.cellnamer._config import CellNamerConfig

__all__ = ["TypeHeads", "claimed_probability"]


class TypeHeads(nn.Module):
    r"""Logits of C known types: the match with their marker profiles, plus what training added.

    One head per member network on its state, one linear head of low rank on the z-scores. All start from
    :math:`\beta\,(k - \bar k)`, the centred marker match, so that a type without a single training cell has a place.

    ``n_types``, ``n_profiles``: number of known types, C, and of marker profiles, K.
    """

    profile_of_type: Tensor

    def __init__(self, n_types: int, n_profiles: int, n_genes: int, config: CellNamerConfig) -> None:
        super().__init__()
        self.register_buffer("profile_of_type", torch.zeros(n_types, n_profiles))
        self.strength = nn.Parameter(torch.tensor(2.0))
        self.members = nn.ModuleList(nn.Linear(config.n_hidden, n_types) for _ in range(config.n_members))
        self.axes = nn.Linear(n_genes, config.head_rank, bias=False)
        self.linear = nn.Linear(config.head_rank, n_types)
        nn.init.normal_(self.axes.weight, std=0.01)
        nn.init.zeros_(self.linear.weight)

    def forward(self, states: Tensor, z: Tensor, matches: Tensor) -> Tensor:
        """Logits (S + 1, n, C) from states (S, n, H), z-scores (n, G) and marker matches (n, K)."""
        expected = self.strength * (matches - matches.mean(1, keepdim=True)) @ self.profile_of_type.T
        found = [head(state) for head, state in zip(self.members, states, strict=True)]
        return torch.stack([*found, self.linear(self.axes(z))]) + expected


def claimed_probability(logits: Tensor, shares: Tensor, *, among_all: bool) -> Tensor:
    """Probability of labels, averaged over heads, (n, P).

    ``logits``: of the known types, (S + 1, n, C). ``shares``: share of every type that each label claims, (P, C).
    ``among_all``: whether types that no label claims compete, or are left out.
    """
    if not among_all:
        taken = shares.sum(0) > 0
        logits, shares = logits[..., taken], shares[:, taken]
    if not shares.shape[1]:
        return logits.new_zeros(logits.shape[1], len(shares))
    return logits.softmax(-1).mean(0) @ shares.T
