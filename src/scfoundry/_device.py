"""Where and how precisely a model computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch

__all__ = ["Precision", "autocast", "resolve_device", "trainer_arguments"]

Precision = Literal["auto", "float32", "bfloat16"]


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
    resolved = torch.device(device)
    if not available.get(resolved.type, True):
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
