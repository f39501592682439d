"""States of more cells than fit on a device: kept in memory while there is room, in a file beyond."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ChunkStore", "resident_bytes"]

CPU_RESIDENT_BYTES = 1 << 29


def resident_bytes(device: torch.device) -> int:
    """Bytes of states that may stay on the compute device: half of a GPU's free memory, half a GiB otherwise."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return CPU_RESIDENT_BYTES


class ChunkStore:
    """Float tensors of a fixed number of rows each (the last may be shorter), kept on a device or in a file.

    The file is temporary and unnamed; the operating system caches it in memory that is free.
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
