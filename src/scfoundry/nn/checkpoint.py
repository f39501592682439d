"""Reading weights made elsewhere: nothing is unpickled, and every tensor is accounted for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import Tensor, nn

__all__ = ["CheckpointError", "account_for", "read_safetensors", "read_torch_file", "sha256"]

N_SHOWN = 5


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to another model."""


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a file of `torch.save` on the CPU; a CheckpointError for anything but tensors and plain containers."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its zip and pickle readers raise
        msg = (
            f"{path} could not be read as a torch file of tensors ({type(error).__name__}). It is damaged, incomplete, "
            "or holds Python objects that are not loaded for safety. Download it again and compare its size."
        )
        raise CheckpointError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} holds a {type(content).__name__}, not a dictionary of tensors: it is not a model checkpoint."
        raise CheckpointError(msg)
    return content


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file as float32; a CheckpointError if it is damaged or truncated."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        msg = f"{path} is damaged or incomplete ({error}). Download or save it again."
        raise CheckpointError(msg) from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def account_for(
    found: Mapping[str, Tensor], module: nn.Module, *, source: str, unused: Collection[str] = ()
) -> dict[str, Tensor]:
    """Complete state of a module from tensors under its names, every name and shape accounted for.

    ``unused`` names may be in the file although the model has no use for them; anything else that is missing,
    unexpected, of another shape or not finite is a CheckpointError.
    """
    expected = module.state_dict()
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys() - set(unused))
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:N_SHOWN])}{', ...' if len(names) > N_SHOWN else ''}"
            for kind, names in problems.items()
            if names
        )
        msg = f"{source} does not fit {type(module).__name__}: {listed}. Is it the checkpoint of another model?"
        raise CheckpointError(msg)
    state = {name: found[name].to(tensor.dtype) for name, tensor in expected.items()}
    if strange := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        listed = f"{', '.join(strange[:N_SHOWN])}{', ...' if len(strange) > N_SHOWN else ''}"
        msg = f"{source} is damaged: {len(strange)} tensors hold NaN or infinite values: {listed}. Download it again."
        raise CheckpointError(msg)
    return state


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
