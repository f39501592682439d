"""Where and how precisely a model computes."""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch

from scfoundry._arguments import quoted

__all__ = ["Compute", "Precision"]

Precision = Literal["auto", "float32", "bfloat16", "fastest"]

# Cells on the device at a time where a model reads cells independently of their number of genes.
DEFAULT_CHUNK = {"cpu": 2048, "mps": 4096, "cuda": 8192}

# Less than this share of the time is worth the rounding.
CLEARLY = 0.8


@functools.cache
def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether a device multiplies matrices of a transformer's size clearly faster in bfloat16 than in float32.

    A tenth of a second of work: there are CPUs that take twice as long in bfloat16, and others a quarter of the time.
    """
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    for _ in range(4):  # the first one starts threads and lays out memory
        for dtype in seconds:
            left, right = (torch.ones(512, 1024, dtype=dtype, device=device) for _ in range(2))
            start = time.perf_counter()
            float((left @ right.T)[0, 0])  # a number on the host: the device has finished
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return seconds[torch.bfloat16] < CLEARLY * seconds[torch.float32]


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute, resolved once per call of a user."""

    device: torch.device
    precision: Precision = "auto"  # "auto": bfloat16 matrix products on CUDA, float32 elsewhere; never "fastest"
    batch_size: int | None = None  # cells on the device at a time; never changes a result
    chosen: bool = False  # whether the device is what was found, not what was asked for

    @classmethod
    def resolve(
        cls,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
    ) -> Self:
        """Check what a user asked for; ``device="auto"`` takes a CUDA GPU, else Apple's, else the CPU.

        ``precision="fastest"`` becomes what this machine multiplies matrices faster in. ValueError: if torch finds no
        such device, the precision is unknown, or the batch size is not positive.
        """
        if precision not in get_args(Precision):
            msg = (
                f'precision must be one of {quoted(get_args(Precision))}; got {precision!r}. Default: precision="auto".'
            )
            raise ValueError(msg)
        if batch_size is not None and batch_size < 1:
            msg = f"batch_size must be at least 1 cell; got {batch_size}. What suits the device: batch_size=None."
            raise ValueError(msg)
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        chosen = device == "auto"
        if chosen:
            device = next((name for name, found in available.items() if found), "cpu")
        try:
            resolved = torch.device(device)
        except RuntimeError:  # no name of a device
            resolved = None
        if resolved is None or not available.get(resolved.type, True):
            msg = (
                f"device={str(device)!r} was asked for, but torch {torch.__version__} finds no such device here. "
                'Use device="cpu" or device="auto", or install a torch build for your GPU.'
            )
            raise ValueError(msg)
        if precision == "fastest":
            precision = "bfloat16" if bfloat16_is_faster(resolved) else "float32"
        return cls(resolved, precision, batch_size, chosen)

    def elsewhere(self) -> Self:
        """The same on the machine of a worker, which has devices of its own."""
        return self.resolve("auto" if self.chosen else self.device, self.precision, self.batch_size)

    @property
    def cells_at_once(self) -> int:
        """Cells on the device at a time: as asked for, or what suits it."""
        return self.batch_size or DEFAULT_CHUNK.get(self.device.type, DEFAULT_CHUNK["cpu"])

    @property
    def half(self) -> bool:
        """Whether matrix products run in bfloat16, which a device must do by itself unless it was asked for."""
        if self.precision != "auto":
            return self.precision == "bfloat16"
        return self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    def autocast(self) -> AbstractContextManager:
        """Context in which matrix products run in this precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()

    def trainer_arguments(self) -> dict[str, Any]:
        """Device and precision in the words of Lightning."""
        return {
            "accelerator": "gpu" if self.device.type == "cuda" else self.device.type,
            "devices": 1 if self.device.index is None else [self.device.index],
            "precision": "bf16-mixed" if self.half else "32-true",
        }
