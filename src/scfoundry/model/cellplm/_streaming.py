"""Embed a context of any size, chunk by chunk, with the result of the whole context.

Every layer needs sums over all cells before it can update one of them. The sums are gathered chunk by chunk, so the
compute device holds one chunk at a time; the states of the other chunks rest in memory while they fit, and in a
temporary file beyond that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from scfoundry._device import Compute
from scfoundry.model.cellplm._attention import flow_context
from scfoundry.nn.chunk_store import ChunkStore, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from scfoundry.model.cellplm._attention import Projection
    from scfoundry.model.cellplm._module import CellPLMModule, EncoderLayer
    from scfoundry.nn.counts import SparseCounts

__all__ = ["chunk_size", "stream_embeddings"]


def chunk_size(batch_size: int | None, device: torch.device) -> int:
    """Cells on the device at a time: as asked for, or what suits it."""
    return Compute.resolve(device, batch_size=batch_size).cells_at_once


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

    Parameters
    ----------
    module
        The model, in evaluation mode, on ``device``.
    chunks
        Counts of consecutive cells and their coordinates in [0, 1]; read once. All but the last of equal size.
    n_cells
        Cells of the context, which decides where states rest.
    device
        Compute device.
    max_resident
        Bytes of states that may stay on the device; by default what `resident_bytes` says.
    generator
        Source of the released model's Gumbel noise (``latent_embedding="gumbel"``), on the CPU.

    Yields
    ------
    Embeddings of the chunks in order, (n, Z) float32 on the CPU.
    """
    config = module.config
    budget = resident_bytes(device) if max_resident is None else max_resident
    state_bytes = n_cells * config.n_hidden * torch.float32.itemsize
    states = ChunkStore(device, on_disk=4 * state_bytes > budget)
    try:
        for counts, coordinates in chunks:
            expression = counts.to(device).log_normalised(config.library_size)
            placed = None if coordinates is None else coordinates.to(device)
            states.append(module.embedder(expression, placed).float())

        # A context whose states fit beside its projections (three times their size) projects every cell only once.
        keep_projections = 4 * state_bytes <= budget
        for layer in cast("Iterable[EncoderLayer]", module.layers):
            kept: list[Projection] = []

            def sweep(names: str, layer: EncoderLayer = layer, kept: list[Projection] = kept) -> Iterator[Projection]:
                for i in range(len(states)):
                    if not keep_projections:
                        yield layer.project(states[i], names)
                        continue
                    if i == len(kept):
                        kept.append(layer.project(states[i]))
                    yield tuple(kept[i]["qkv".index(name)] for name in names)

            context = flow_context(sweep)
            for i in range(len(states)):
                h = states[i]
                q = kept[i][0] if keep_projections else layer.project(h, "q")[0]
                states[i] = layer.update(h, q, context)

        for i in range(len(states)):
            u = module.norm(states[i])
            uniform = None
            if config.latent == "gmvae" and config.latent_embedding == "gumbel":
                uniform = torch.rand(len(u), config.n_clusters, generator=generator).to(device)
            yield module.latent.embedding(u, uniform).float().cpu()
    finally:
        states.close()
