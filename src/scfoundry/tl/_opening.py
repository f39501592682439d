"""What every verb begins and ends with: the model, the arguments, the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry._keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import Embeds

__all__ = ["at_least_one", "check_return", "open_fitted", "open_model", "quoted", "record", "seed_of"]


def open_model(model: str | Path | Any, *, caller: str) -> Any:
    """Load weights by name or folder; a model is taken as it is.

    Raises
    ------
    FileNotFoundError
        If there are no such weights.
    ValueError
        If it is no model.
    """
    from scfoundry.model._capabilities import Embeds, require
    from scfoundry.model._load import load_pretrained

    return require(load_pretrained(model) if isinstance(model, str | Path) else model, Embeds, caller=caller)


def open_fitted(model: str | Path | Any, kind: type[Any], *, caller: str) -> Any:
    """A fitted object of a kind, given or in the folder where it was saved; a model where it is none.

    Raises
    ------
    FileNotFoundError
        If there are no such weights.
    CheckpointError
        If the folder holds a fitted object of another kind.
    ValueError
        If it is neither.
    """
    from scfoundry.tasks._fitted import is_fitted

    fitted = kind.load(model) if isinstance(model, str | Path) and is_fitted(model) else model
    return fitted if isinstance(fitted, kind) else open_model(model, caller=caller)


def check_return(*, copy: bool, return_fitted: bool, caller: str) -> None:
    """Refuse to return two things.

    Raises
    ------
    ValueError
        If both a copy and the fitted object are asked for.
    """
    if copy and return_fitted:
        msg = (
            f"{caller} can return a copy of adata or the fitted object, not both. For both: copied = adata.copy(); "
            f"fitted = {caller}(copied, ..., return_fitted=True)."
        )
        raise ValueError(msg)


def at_least_one(**numbers: int | None) -> None:
    """Refuse numbers below 1; `None` leaves the choice to the function."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            msg = f"{name} must be at least 1; got {value}. To leave the choice to the function: {name}=None."
            raise ValueError(msg)


def quoted(names: Iterable[object], most: int | None = None) -> str:
    """Names in a message, ``'a', 'b', ...``; "none" if there are none."""
    listed = list(names)
    shown = ", ".join(map(repr, listed[:most])) or "none"
    return shown + ", ..." if most is not None and len(listed) > most else shown


def seed_of(rng: int | np.random.Generator | None) -> int | None:
    """Seed as a record can hold it."""
    return int(rng) if isinstance(rng, int | np.integer) else None


def record(model: Embeds, cells: Cells, params: Mapping[str, Any], **further: Any) -> dict[str, Any]:
    """What stands in ``uns``: arguments without those left at `None`, weights, and how the data were read."""
    return {
        Keys.PARAMS: {name: value for name, value in params.items() if value is not None},
        Keys.PROVENANCE: model.provenance | cells.provenance | further,
    }
