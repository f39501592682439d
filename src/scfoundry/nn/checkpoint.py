"""What weights may be: nothing is unpickled, nothing takes more memory than its file, every tensor is accounted for."""

from __future__ import annotations

import hashlib
import json
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = [
    "CheckpointError",
    "account_for",
    "built_within",
    "check_archive",
    "plain_file",
    "read_json",
    "read_safetensors",
    "read_text",
    "read_torch_file",
    "renamed",
    "sha256",
    "tensors_of",
]

N_SHOWN = 5
# A module that is far larger than its file is not even described: it may have any number of layers.
MOST_BEYOND = 10


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to another model."""


def plain_file(path: Path) -> Path:
    """The path of a regular file that lies where it says, not a pipe, a device or a link out of its folder.

    FileNotFoundError: if there is none. CheckpointError: if it is something else.
    """
    if path.exists() and not path.is_file():
        msg = f"{path} is no regular file. Download or save it again."
        raise CheckpointError(msg)
    if path.resolve(strict=True).parent != path.parent.resolve():
        msg = (
            f"{path} is a link out of its folder, to {path.resolve()}, which is not followed for safety. If you trust "
            f"it, copy what it stands for: cp -rL {path.parent} copied"
        )
        raise CheckpointError(msg)
    return path


def read_text(path: Path) -> str:
    """Text of a file; a CheckpointError if it is none."""
    try:
        return plain_file(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"{path} is damaged: it is no text ({error}). Download or save it again."
        raise CheckpointError(msg) from error


def read_json(path: Path) -> dict[str, Any]:
    """Names with their values; a CheckpointError if a file holds anything else, or numbers that are not finite."""
    try:
        content = json.loads(read_text(path), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        msg = f"{path} is damaged: {error}. Download it again, or save the model again."
        raise CheckpointError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} holds a {type(content).__name__}, not names with their values. Download or save it again."
        raise CheckpointError(msg)
    return content


def _refuse_constant(name: str) -> float:
    msg = f"it holds {name}, which is no finite number"
    raise ValueError(msg)


def check_archive(path: Path) -> None:
    """Refuse a zip archive that takes more room unpacked than on disk, or has a part with another checksum."""
    with zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        damaged = None if packed else archive.testzip()
    if packed or damaged:
        what = f"packs {', '.join(packed[:N_SHOWN])}" if packed else f"is damaged in {damaged}"
        msg = f"{path} {what}, and is not read for safety. Download or save it again."
        raise CheckpointError(msg)


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a file of `torch.save` on the CPU; a CheckpointError for anything but tensors and plain containers."""
    plain_file(path)
    try:
        if is_zip := zipfile.is_zipfile(path):
            check_archive(path)
        # Without a map, torch takes the sizes of tensors from the pickle, and reads beyond what is there.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises whatever its zip and pickle readers raise
        msg = (
            f"{path} could not be read as a torch file of tensors ({type(error).__name__}). It is damaged, incomplete, "
            "or holds Python objects that are not loaded for safety. Download it again and compare its size."
        )
        raise CheckpointError(msg) from error
    if not isinstance(content, dict):
        msg = (
            f"{path} holds a {type(content).__name__}, not a dictionary of tensors: it is not a model checkpoint. "
            "Name the file that is."
        )
        raise CheckpointError(msg)
    return _in_memory(content)


def _in_memory(content: Any) -> Any:
    """Copies of tensors: a file that is written anew would end the process that still reads it.

    What is no plain tensor, and could grow when it is copied, stays as it is, to be refused.
    """
    if isinstance(content, dict):
        return {name: _in_memory(value) for name, value in content.items()}
    return content.clone() if _is_plain(content) else content


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; a CheckpointError if it is damaged or truncated. Tensors stay in it until used."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(plain_file(path))
    except (SafetensorError, MemoryError, OSError) as error:
        msg = f"{path} is damaged or incomplete ({error}). Download or save it again."
        raise CheckpointError(msg) from error


def tensors_of(content: Any, *, source: str) -> dict[str, Tensor]:
    """Tensors by name, each with all of its values in memory or a file; a CheckpointError for anything else."""
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    strange = [name for name, value in content.items() if not _is_plain(value)] if named else []
    if not named or strange:
        what = f"more than tensors by name: {', '.join(strange[:N_SHOWN])}" if strange else "no tensors by name"
        msg = f"{source} holds {what}. Is it the checkpoint of another model?"
        raise CheckpointError(msg)
    return content


def _is_plain(value: Any) -> bool:
    # A tensor of stride 0 can have any shape: it would grow when it is first copied.
    return (
        isinstance(value, torch.Tensor)
        and (value.layout, value.device.type, value.is_quantized) == (torch.strided, "cpu", False)
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


@contextmanager
def built_within(tensors: Iterable[Tensor], *, source: str) -> Iterator[None]:
    """Build a module without memory, and stop where it has far more values than these tensors.

    What a configuration asks for is known then before anything is allocated, and can be compared with the tensors.
    """
    left = MOST_BEYOND * (1 + sum(tensor.numel() for tensor in tensors))

    def register(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal left
        left -= 0 if value is None else value.numel()
        if left < 0:
            raise CheckpointError(too_large)

    too_large = (
        f"The configuration of {source} asks for a larger model than its tensors are. Is it the checkpoint of another "
        "model? Download or save it again."
    )
    hooks = [
        register_module_parameter_registration_hook(register),
        register_module_buffer_registration_hook(register),
    ]
    try:
        with torch.device("meta"), Uninitialised():
            yield
    except (RuntimeError, OverflowError, TypeError, MemoryError) as error:  # sizes that torch cannot count
        raise CheckpointError(too_large) from error
    finally:
        for hook in hooks:
            hook.remove()


class Uninitialised(TorchFunctionMode):
    """Leave out what `torch.nn.init` draws: of tensors that are not there, it takes a second to load what does that."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, unless it initialises a tensor."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def account_for(
    found: Mapping[str, Tensor],
    module: nn.Module,
    *,
    source: str,
    unused: Collection[str] = (),
    own: Collection[str] = (),
) -> dict[str, Tensor]:
    """Complete state of a module from tensors under its names, every name and shape accounted for.

    ``unused`` names may be in the file although the model has no use for them; the module keeps its values of ``own``
    ones. Anything else that is missing, unexpected, of another shape or kind of number, or not finite is a
    CheckpointError.
    """
    found = tensors_of(dict(found), source=source)
    expected = {name: tensor for name, tensor in module.state_dict().items() if name not in own}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys() - set(unused))
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    retyped = [
        f"{name} {found[name].dtype} instead of {tensor.dtype}"
        for name, tensor in expected.items()
        if name in found and _kind(found[name]) != _kind(tensor)
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped, "of another type": retyped}
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


def renamed(name: str, stems: Mapping[str, str]) -> str:
    """The name of a tensor with another stem, if it begins with one of these."""
    return next((new + name.removeprefix(old) for old, new in stems.items() if name.startswith(old)), name)


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype is torch.bool


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
