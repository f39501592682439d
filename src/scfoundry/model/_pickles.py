"""Read pickled dictionaries of plain values without running anything that is in them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfoundry.nn.checkpoint import CheckpointError, plain_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_plain_pickle"]


def latin1(text: str, encoding: str) -> bytes:
    """Bytes written as a string, which is how the protocols before 3 hold those of a number."""
    if not isinstance(text, str) or encoding != "latin1":
        msg = f"it asks for _codecs.encode of a {type(text).__name__} as {encoding!r}"
        raise pickle.UnpicklingError(msg)
    return text.encode("latin1")


class Kind:
    """Stands for `numpy.dtype`: numpy itself would follow an address that a hostile file calls an object."""

    def __init__(self, name: str, align: object = False, copy: object = False) -> None:
        if name not in NUMBERS:
            msg = f"it asks for a number of type {name!r}"
            raise pickle.UnpicklingError(msg)
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Order of the bytes, of all that numpy keeps."""
        self.order = state[1] if state[1] in ("<", ">") else "="


def number(kind: Kind, content: bytes) -> Any:
    """A number, as `numpy.core.multiarray.scalar` makes it."""
    if not isinstance(kind, Kind):
        msg = f"it asks for a number of type {type(kind).__name__}"
        raise pickle.UnpicklingError(msg)
    return np.frombuffer(content, np.dtype(kind.order + kind.name))[0]


NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
# numpy pickles a scalar as `scalar(dtype, bytes)`; the module's name differs between its versions.
SAFE = {
    ("numpy", "dtype"): Kind,
    ("numpy.core.multiarray", "scalar"): number,
    ("numpy._core.multiarray", "scalar"): number,
    ("_codecs", "encode"): latin1,
}
# In Python, because the one in C allocates as many places as a file claims to need.
InPython: Any = vars(pickle)["_Unpickler"]
# What plain values do without: instances, persistent ids, buffers that are allocated by a length in the file.
UNSAFE = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.BINPERSID, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


class PlainUnpickler(InPython):
    """An unpickler that knows numbers of numpy and nothing else beyond the plain types."""

    dispatch: ClassVar[dict[int, Any]] = {
        step: act for step, act in InPython.dispatch.items() if bytes([step]) not in UNSAFE
    }

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every other name that a pickle could call."""
        if (module, name) in SAFE:
            return SAFE[module, name]
        msg = f"it asks for {module}.{name}"
        raise pickle.UnpicklingError(msg)

    def load_build(self) -> None:
        """Give state to a type of numbers, and to nothing else."""
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Read a dictionary of strings and numbers; CheckpointError, and nothing run, if a pickle holds anything else."""
    try:
        with plain_file(path).open("rb") as file:
            content = PlainUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises whatever its opcodes stumble upon
        msg = (
            f"{path} is no pickled dictionary of plain values: {error}. It is not loaded for safety. Download it again."
        )
        raise CheckpointError(msg) from error
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, str | int | float | np.number) for key, value in content.items()
    ):
        msg = f"{path} holds a {type(content).__name__}, but not one of strings and numbers. Download it again."
        raise CheckpointError(msg)
    return content
