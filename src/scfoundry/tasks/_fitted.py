"""How fitted objects rest on disk: plain values, arrays, and the model beside them."""

from __future__ import annotations

import json
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfoundry.data.unfinished import replacing
from scfoundry.model._load import load_weights
from scfoundry.nn.checkpoint import CheckpointError, check_archive, plain_file, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Fitted", "is_fitted", "prefixed", "read_fitted", "under", "write_fitted"]

VALUES_FILE, ARRAYS_FILE, MODEL_FOLDER = "fitted.json", "fitted.npz", "model"


class Fitted(ABC):
    """What was learned with a `model`; arrays and plain values hold the rest of it."""

    model: Any

    @abstractmethod
    def _stored(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Arrays, and values as JSON holds them, of which `_restored` makes the same object."""

    @classmethod
    @abstractmethod
    def _restored(cls, model: Any, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        """Object of what `_stored` gave."""

    def save(self, folder: str | Path) -> None:
        """Write to a folder, the model with it; what `load` reads predicts bit for bit the same."""
        arrays, values = self._stored()
        write_fitted(folder, type(self).__name__, self.model, arrays=arrays, values=values)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        FileNotFoundError: if the folder holds no fitted object. CheckpointError: if it holds one of another kind, or is
        damaged.
        """
        return cls._restored(*read_fitted(folder, cls.__name__))


def prefixed(prefix: str, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Arrays of a part, so named that `under` finds them among others."""
    return {prefix + name: values for name, values in arrays.items()}


def under(prefix: str, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Arrays of a part, by their own names."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def is_fitted(folder: str | Path) -> bool:
    """Whether a folder holds a fitted object."""
    return (Path(folder) / VALUES_FILE).exists()


def write_fitted(
    folder: str | Path, kind: str, model: Any, *, arrays: Mapping[str, NDArray], values: Mapping[str, Any]
) -> None:
    """Write what was learned and the model it was learned with, if any; nothing has to be unpickled to read it."""
    with replacing(Path(folder), last=VALUES_FILE) as unfinished:
        if model is not None:
            model.save_pretrained(unfinished / MODEL_FOLDER, weights=model.provenance["weights"])
        np.savez(unfinished / ARRAYS_FILE, allow_pickle=False, **arrays)
        (unfinished / VALUES_FILE).write_text(
            json.dumps({"kind": kind, "has_model": model is not None} | dict(values), indent=2) + "\n"
        )


def read_fitted(folder: str | Path, kind: str) -> tuple[Any, dict[str, NDArray], dict[str, Any]]:
    """Read what `write_fitted` wrote: model, arrays, values.

    Raises `FileNotFoundError` if there is no fitted object, `CheckpointError` if one of another kind, or damaged.
    """
    folder = Path(folder)
    path = folder / VALUES_FILE
    if not is_fitted(folder):
        msg = f"{folder} holds no {VALUES_FILE}: it was not written by {kind}.save."
        raise FileNotFoundError(msg)
    try:
        values = read_json(path)
        check_archive(plain_file(folder / ARRAYS_FILE))
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as stored:
            arrays = dict(stored)
    except CheckpointError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{folder} is damaged ({error}). Save the {kind} again."
        raise CheckpointError(msg) from error
    if values.pop("kind", None) != kind:
        msg = (
            f"{folder} holds a fitted object of another kind than {kind}: {path.read_text()[:60]!r}. Pass it to the "
            "verb that fitted it."
        )
        raise CheckpointError(msg)
    model = load_weights(folder / MODEL_FOLDER) if values.pop("has_model", True) else None
    return model, arrays, values
