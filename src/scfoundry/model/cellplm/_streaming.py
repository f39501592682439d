"""Embed a context of any size, chunk by chunk, with the result of the whole context.

Every layer needs sums over all cells before it can update one of them. The sums are gathered chunk by chunk, so the
compute device holds one chunk at a time; the states of the other chunks rest in memory while they fit, and in a
temporary file beyond that.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, cast

import torch

from scfoundry.model.cellplm._attention import flow_context
from scfoundry.nn.chunk_store import ChunkStore, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from scfoundry.model.cellplm._attention import Projection
    from scfoundry.model.cellplm._module import CellPLMModule, EncoderLayer
    from scfoundry.nn.counts import SparseCounts

__all__ = ["ContextStates", "stream_embeddings"]


class ContextStates:
    """States of the cells of one context, which layer after layer brings up, chunk by chunk.

    ``module``: the model, in evaluation mode, on ``device``. ``n_cells``: cells of the context, which decides where
    states rest. ``max_resident``: bytes of states that may stay on the device; by default what `resident_bytes` says.
    """

    def __init__(
        self, module: CellPLMModule, n_cells: int, *, device: torch.device, max_resident: int | None = None
    ) -> None:
        budget = resident_bytes(device) if max_resident is None else max_resident
        state_bytes = n_cells * module.config.n_hidden * torch.float32.itemsize
        self.module, self.device = module, device
        # A context whose states fit beside its projections (three times their size) projects every cell only once.
        self.resident = 4 * state_bytes <= budget
        self._chunks = ChunkStore(device, on_disk=not self.resident)

    def read(self, chunks: Iterable[tuple[SparseCounts, Tensor | None]]) -> None:
        """Take in the cells: counts and coordinates in [0, 1] of consecutive ones, all but the last of equal size."""
        for counts, coordinates in chunks:
            expression = counts.to(self.device).log_normalised(self.module.config.library_size)
            placed = None if coordinates is None else coordinates.to(self.device)
            self._chunks.append(self.module.embedder(expression, placed).float())

    def __iter__(self) -> Iterator[Tensor]:
        """States of the chunks in order, (n, D)."""
        return (self._chunks[i] for i in range(len(self._chunks)))

    def sweep(self, layer: EncoderLayer) -> LayerSweep:
        """Projections of these states by a layer."""
        return LayerSweep(layer, self._chunks, keep=self.resident)

    def update(self, layer: EncoderLayer) -> None:
        """Bring every cell through a layer."""
        sweep = self.sweep(layer)
        # Attention out of core: it goes over all chunks three times and holds none of them, so what it is handed is a
        # way to go over them, called anew each time, in place of the chunks.
        context = flow_context(sweep)
        for i, h in enumerate(self):
            (q,) = sweep.of(i, h, "q")
            self._chunks[i] = layer.update(h, q, context)

    def close(self) -> None:
        """Release the file."""
        self._chunks.close()


class LayerSweep:
    """Projections of all chunks by one layer, those that are named, as `flow_context` asks for them.

    ``states``: of the chunks; not to change before the last call. ``keep``: whether to keep the projections from call
    to call.
    """

    def __init__(self, layer: EncoderLayer, states: ChunkStore, *, keep: bool) -> None:
        self._layer, self._states = layer, states
        self._kept: list[Projection] | None = [] if keep else None

    def __call__(self, names: str) -> Iterator[Projection]:
        return (self.of(i, self._states[i], names) for i in range(len(self._states)))

    def of(self, i: int, h: Tensor, names: str) -> Projection:
        """Projections of chunk i, whose states are h."""
        if self._kept is None:
            return self._layer.project(h, names)
        if i == len(self._kept):
            self._kept.append(self._layer.project(h))
        return tuple(self._kept[i]["qkv".index(name)] for name in names)


# Not inference_mode: there autocast would cast every weight anew at every chunk.
@torch.no_grad()
def stream_embeddings(
    module: CellPLMModule,
    chunks: Iterable[tuple[SparseCounts, Tensor | None]],
    n_cells: int,
    *,
    device: torch.device,
    max_resident: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Embed one context.

    ``module``, ``n_cells``, ``device``, ``max_resident``: as in `ContextStates`. ``chunks``: counts of consecutive
    cells and their coordinates in [0, 1]; read once. All but the last of equal size. ``generator``: source of the
    released model's Gumbel noise (``latent_embedding="gumbel"``), on the CPU. Yields embeddings of the chunks in order,
    (n, Z) float32 on the CPU.
    """
    config = module.config
    with closing(ContextStates(module, n_cells, device=device, max_resident=max_resident)) as states:
        states.read(chunks)
        for layer in cast("Iterable[EncoderLayer]", module.layers):
            states.update(layer)
        for h in states:
            u = module.norm(h)
            uniform = None
            if config.latent == "gmvae" and config.latent_embedding == "gumbel":
                uniform = torch.rand(len(u), config.n_clusters, generator=generator).to(device)
            yield module.latent.embedding(u, uniform).float().cpu()
