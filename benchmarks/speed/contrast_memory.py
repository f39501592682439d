"""A memory model of contrastive steps: the longest cells that fit under a cap, over batch sizes.

What a step needs beyond weights, their gradients and the two moments of Adam is what the encoder keeps for gradients.
That is counted on single cells as autograd saves it, and grows with their number and, attention being linear, with
their length. End to end it is kept of both views of the whole batch, with divide and conquer of one mini-batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

__all__ = ["MemoryModel", "draw", "kept_bytes"]

N_VIEWS = 2
# Weights, gradients, and two moments of Adam.
COPIES = 4


class MemoryModel(NamedTuple):
    """Bytes of a step: ``fixed``, and ``per_cell + per_gene * length`` for each cell whose gradients are in memory."""

    fixed: float
    per_cell: float
    per_gene: float

    @classmethod
    def of(cls, module: nn.Module, encode: Callable[[int], Tensor], lengths: tuple[int, int]) -> MemoryModel:
        """By what is kept of one cell of each of two lengths, which ``encode`` encodes."""
        short, long = (kept_bytes(module, lambda n=n: encode(n)) for n in lengths)
        slope = (long - short) / (lengths[1] - lengths[0])
        fixed = COPIES * sum(p.numel() * p.element_size() for p in module.parameters())
        return cls(fixed, short - slope * lengths[0], slope)

    def activations(self, n_cells: int, length: int) -> float:
        """Bytes kept of cells of this length."""
        return n_cells * (self.per_cell + self.per_gene * length)

    def longest(self, n_cells: int, cap: float) -> int:
        """Genes of a cell at which so many still fit, 0 if none do."""
        return max(0, int(((cap - self.fixed) / n_cells - self.per_cell) / self.per_gene))


def kept_bytes(module: nn.Module, encode: Callable[[], Tensor]) -> int:
    """Bytes of tensors that autograd keeps of an encoding, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}
    held = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # or its place would be taken by another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encode()
    return sum(kept.values())


def draw(model: MemoryModel, part: int, caps: dict[str, float], path: Path) -> dict[str, dict[str, list[int]]]:
    """Longest cells over batch sizes under each cap, drawn to a file; and the numbers."""
    from matplotlib import pyplot as plt

    batches = [2**k for k in range(4, 13)]
    found: dict[str, dict[str, list[int]]] = {}
    figure, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    for colour, (name, cap) in zip(("C0", "C1", "C2"), caps.items(), strict=False):
        whole = [model.longest(N_VIEWS * n, cap) for n in batches]
        parts = [model.longest(min(part, n), cap) for n in batches]
        found[name] = {"batch": batches, "end to end": whole, "divide and conquer": parts}
        axis.plot(batches, np.maximum(whole, 1), colour, marker="o", ms=3, label=f"end to end, {name}")
        axis.plot(batches, parts, colour, ls="--", label=f"divide and conquer, {name}")
    axis.set(
        xscale="log", yscale="log", xlabel="cells per batch", ylabel="longest cells that fit, genes", ylim=(10, None)
    )
    axis.set_xscale("log", base=2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return found
