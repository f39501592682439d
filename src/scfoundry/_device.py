"""Where and how precisely a model computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch

__all__ = ["Compute", "Precision", "resolve_device"]

Precision = Literal["auto", "float32", "bfloat16"]

# Cells on the device at a time where a model reads cells independently of their number of genes.
DEFAULT_CHUNK = {"cpu": 2048, "mps": 4096, "cuda": 8192}


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute, resolved once per call of a user.

    Attributes
    ----------
    device
        Device that exists.
    precision
        ``"float32"``, ``"bfloat16"`` for the matrix products, or ``"auto"``: bfloat16 on CUDA, float32 elsewhere.
    batch_size
        Cells on the device at a time; what suits model and device if `None`. Never changes a result.
    """

    device: torch.device
    precision: Precision = "auto"
    batch_size: int | None = None

    @classmethod
    def resolve(
        cls,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
    ) -> Self:
        """Check what a user asked for.

        Raises
        ------
        ValueError
            If a GPU is asked for that is not there, the precision is unknown, or the batch size is not positive.
        """
        if precision not in get_args(Precision):
            msg = f"precision must be one of {', '.join(map(repr, get_args(Precision)))}; got {precision!r}."
            raise ValueError(msg)
        if batch_size is not None and batch_size < 1:
            msg = f"batch_size must be at least 1 cell; got {batch_size}. What suits the device: batch_size=None."
            raise ValueError(msg)
        return cls(resolve_device(device), precision, batch_size)

    @property
    def cells_at_once(self) -> int:
        """Cells on the device at a time: as asked for, or what suits it."""
        return self.batch_size or DEFAULT_CHUNK.get(self.device.type, DEFAULT_CHUNK["cpu"])

    def autocast(self) -> AbstractContextManager:
        """Context in which matrix products run in this precision."""
        return autocast(self.device, self.precision)

    def trainer_arguments(self) -> dict[str, Any]:
        """Device and precision in the words of Lightning."""
        return trainer_arguments(self.device, self.precision)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Device to compute on; ``"auto"`` takes a CUDA GPU, else Apple's, else the CPU.

    Raises
    ------
    ValueError
        If a GPU is asked for that is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next((name for name, there in available.items() if there), "cpu"))
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None  # no name of a device
    if resolved is None or not available.get(resolved.type, True):
        msg = (
            f"device={str(device)!r} was asked for, but torch {torch.__version__} finds no such device here. "
            'Use device="cpu" or device="auto", or install a torch build for your GPU.'
        )
        raise ValueError(msg)
    return resolved


def autocast(device: torch.device, precision: Precision = "auto") -> AbstractContextManager:
    """Context in which matrix products run in ``precision``; ``"auto"`` is bfloat16 on CUDA, float32 elsewhere."""
    if precision not in get_args(Precision):
        msg = f"precision must be one of {', '.join(map(repr, get_args(Precision)))}; got {precision!r}."
        raise ValueError(msg)
    half = precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def trainer_arguments(device: torch.device, precision: Precision = "auto") -> dict[str, Any]:
    """Device and precision in the words of Lightning."""
    half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return {
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": 1 if device.index is None else [device.index],
        "precision": "bf16-mixed" if half else "32-true",
    }
