"""Embed a context of any size, chunk by chunk, with the result of the whole context.

Every layer needs sums over all cells before it can update one of them. The sums are gathered chunk by chunk, so the
compute device holds one chunk at a time; the states of the other chunks rest in memory while they fit, and in a
temporary file beyond that.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, cast

import torch

from scfoundry.model.cellplm._attention import flow_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from scfoundry.model.cellplm._attention import Projection
    from scfoundry.model.cellplm._module import CellPLMModule, EncoderLayer
    from scfoundry.nn.counts import SparseCounts

__all__ = ["ChunkStore", "chunk_size", "resident_bytes", "stream_embeddings"]

CPU_RESIDENT_BYTES = 1 << 30
DEFAULT_CHUNK = {"cpu": 2048, "mps": 4096, "cuda": 8192}


def chunk_size(batch_size: int | None, device: torch.device) -> int:
    """Cells on the device at a time: as asked for, or what suits it.

    Raises
    ------
    ValueError
        If it is not positive.
    """
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1 cell; got {batch_size}."
        raise ValueError(msg)
    return DEFAULT_CHUNK.get(device.type, 2048) if batch_size is None else batch_size


def resident_bytes(device: torch.device) -> int:
    """Bytes of states that may stay on the compute device: half of a GPU's free memory, 1 GiB otherwise."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return CPU_RESIDENT_BYTES


class ChunkStore:
    """Float tensors of a fixed number of rows each (the last may be shorter), kept on a device or in a file.

    Parameters
    ----------
    device
        Where chunks are handed out.
    on_disk
        Keep them in an unnamed temporary file. The operating system caches it in memory that is free.
    """

    def __init__(self, device: torch.device, *, on_disk: bool) -> None:
        self.device = device
        self._shapes: list[torch.Size] = []
        self._resident: list[Tensor] = []
        self._slot_bytes = 0
        self._file = tempfile.TemporaryFile() if on_disk else None  # noqa: SIM115 (closed by `close`)

    def __len__(self) -> int:
        return len(self._shapes)

    def append(self, chunk: Tensor) -> None:
        """Add a chunk at the end."""
        self._slot_bytes = self._slot_bytes or chunk.nbytes
        self._shapes.append(chunk.shape)
        if self._file is None:
            self._resident.append(chunk)
        else:
            self[len(self) - 1] = chunk

    def __setitem__(self, index: int, chunk: Tensor) -> None:
        if self._file is None:
            self._resident[index] = chunk
        else:
            self._file.seek(index * self._slot_bytes)
            self._file.write(chunk.cpu().contiguous().numpy().data)

    def __getitem__(self, index: int) -> Tensor:
        if self._file is None:
            return self._resident[index]
        chunk = torch.empty(self._shapes[index])
        self._file.seek(index * self._slot_bytes)
        self._file.readinto(chunk.numpy().data)
        return chunk.to(self.device)

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()


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
