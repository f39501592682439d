"""Read pickled dictionaries of plain values without running anything that is in them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry.nn.checkpoint import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_plain_pickle"]


def latin1(text: str, encoding: str) -> bytes:
    """Bytes written as a string, which is how the protocols before 3 hold those of a number."""
    if not isinstance(text, str) or encoding != "latin1":
        msg = f"it asks for _codecs.encode of a {type(text).__name__} as {encoding!r}"
        raise pickle.UnpicklingError(msg)
    return text.encode("latin1")


# numpy pickles a scalar as `scalar(dtype, bytes)`; the module's name differs between its versions.
SAFE = {
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("_codecs", "encode"): latin1,
}


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows numpy scalars and nothing else beyond the plain types."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every other name that a pickle could call."""
        if (module, name) in SAFE:
            return SAFE[module, name]
        msg = f"it asks for {module}.{name}"
        raise pickle.UnpicklingError(msg)


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Read a dictionary of strings and numbers; CheckpointError, and nothing run, if a pickle holds anything else."""
    try:
        with path.open("rb") as file:
            content = PlainUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises whatever its opcodes stumble upon
        msg = f"{path} is no pickled dictionary of plain values: {error}. It is not loaded for safety."
        raise CheckpointError(msg) from error
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, str | int | float | np.number) for key, value in content.items()
    ):
        msg = f"{path} holds a {type(content).__name__}, but not one of strings and numbers."
        raise CheckpointError(msg)
    return content
