"""What every verb begins and ends with: arguments, model, what was fitted, the line in the log, the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import require_column
from scfoundry._compat import obs_column
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.slots import write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sized

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import Embeds

__all__ = [
    "announce",
    "check_return",
    "described",
    "given",
    "group_codes",
    "new_seed",
    "open_fitted",
    "open_model",
    "record",
    "refuse_learning",
    "write_results",
    "wrote",
]


# ---- arguments: all raise ValueError -------------------------------------------------------------------------------


def group_codes(
    adata: AnnData, key: str | None, *, argument: str, caller: str, optional: bool = True
) -> tuple[NDArray[np.int64], list[str]]:
    """Number of the group of every cell, -1 for none, and the names of the groups, sorted.

    ``optional``: there are no groups without a key.
    """
    if optional and key is None:
        return np.full(adata.n_obs, -1), []
    require_column(adata.obs, key, fix=f"{argument}{', or None' if optional else ''}")
    column = obs_column(adata, key)
    named = pd.Categorical(column.astype(object).where(column.notna(), None).map(str, na_action="ignore"))
    if not len(named.categories):
        otherwise = f"leave the groups out: {argument}=None" if optional else f"pass another as {argument}"
        msg = f"No cell has a group in adata.obs[{key!r}]. Fill the column, or {otherwise}."
        raise ValueError(msg)
    if n_missing := int(np.sum(named.codes < 0)):
        logger.warning("%s: %d cells have no value in obs[%r] and are in no group.", caller, n_missing, key)
    return named.codes.astype(np.int64), named.categories.tolist()


def check_return(*, copy: bool, return_fitted: bool, caller: str) -> None:
    """Refuse to return two things."""
    if copy and return_fitted:
        msg = (
            f"{caller} can return a copy of adata or the fitted object, not both. For both: copied = adata.copy(); "
            f"fitted = {caller}(copied, ..., return_fitted=True)."
        )
        raise ValueError(msg)


def refuse_learning(given: Iterable[str], *, caller: str) -> None:
    """Refuse arguments of learning with what was fitted before."""
    if names := ", ".join(given):
        msg = (
            f"The model was fitted before and learns no more, so that {names} would have no effect. Leave them out: "
            f"{caller}(adata, model=fitted). Or learn anew, from a model that is not fitted."
        )
        raise ValueError(msg)


# ---- models --------------------------------------------------------------------------------------------------------


def open_model(model: str | Path | Any, capability: type | None = None, *, caller: str) -> Any:
    """Load weights by name or folder, or take a model as it is; it has to embed cells, and what is asked for.

    Raises
    ------
    FileNotFoundError
        If there are no such weights.
    ValueError
        If it is no model, or not one that can, or its weights hold NaN or infinite values.
    """
    from scfoundry.model._capabilities import Embeds, require
    from scfoundry.model._load import load_weights

    loaded = require(load_weights(model) if isinstance(model, str | Path) else model, Embeds, caller=caller)
    refuse_damaged(loaded, caller=caller)
    return loaded if capability is None else require(loaded, capability, caller=caller)


def open_fitted(model: str | Path | Any, kind: type[Any], *, caller: str) -> tuple[Any, Any]:
    """A fitted object, given or in the folder where it was saved, and its model; `None` and a model where it is none.

    Raises
    ------
    CheckpointError
        If the folder holds a fitted object of another kind.
    FileNotFoundError, ValueError
        As `open_model` does.
    """
    from scfoundry.tasks._fitted import is_fitted

    opened = kind.load(model) if isinstance(model, str | Path) and is_fitted(model) else model
    if not isinstance(opened, kind):
        return None, open_model(opened, caller=caller)
    refuse_damaged(opened.model, caller=caller)
    return opened, opened.model


def refuse_damaged(model: Any, *, caller: str) -> None:
    """Refuse weights that are not numbers: what is read from files has been checked, what was changed since has not."""
    module = getattr(model, "module", None)
    if module is not None and not all(parameter.isfinite().all() for parameter in module.parameters()):
        msg = (
            f"{caller}: the weights of {type(model).__name__} hold NaN or infinite values; they changed after they "
            "were loaded or trained. Load them again: sf.model.load_pretrained(...)."
        )
        raise ValueError(msg)


def announce(
    model: Embeds, compute: Compute, cells: Cells, *also: str, what: str = "", shared: Sized | None = None
) -> None:
    """Log weights, device, what is to be done, what of the data the model knows, and which genes a reference has."""
    from scfoundry.model._capabilities import warn_of_idle_positions

    tail = "" if shared is None else f", {len(shared):,} of them in the reference, too"
    begun = f"{model.provenance['weights']} on {compute.device}{what and f', {what}'}"
    logger.info(f"{begun}: {cells.summary(*also)}{tail}")
    warn_of_idle_positions(model, cells)


# ---- the record ----------------------------------------------------------------------------------------------------


def new_seed(rng: int | np.random.Generator | None) -> int:
    """Seed of everything random in a core."""
    return int(np.random.default_rng(rng).integers(2**31))


def given(params: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments but those left at `None` and generators, whose state has no place in a file."""
    return {name: value for name, value in params.items() if not isinstance(value, np.random.Generator | None)}


def record(model: Embeds, cells: Cells | None, params: Mapping[str, Any], **further: Any) -> dict[str, Any]:
    """What stands in ``uns``: arguments but those left at `None` and generators, weights, how the data were read."""
    read = {} if cells is None else cells.provenance
    return {Keys.PARAMS: given(params), Keys.PROVENANCE: model.provenance | read | further}


def write_results(
    adata: AnnData,
    results: Mapping[str, Any],
    *,
    units: str,
    caller: str,
    undefined: NDArray[np.bool_] | None = None,
) -> None:
    """Write results by address, all or none, as `scfoundry.data.slots.write` does, and log what they are.

    The record among them, of address ``"uns/..."``, also gets the verb and the units.
    """
    write(adata, described(results, units=units, caller=caller), caller=caller, undefined=undefined)
    wrote(results, units=units, caller=caller)


def described(results: Mapping[str, Any], *, units: str, caller: str) -> dict[str, Any]:
    """Results by address, the record with the verb and the units."""
    how = {Keys.VERB: caller, Keys.UNITS: units}
    return {name: {**value, **how} if name.startswith("uns/") else value for name, value in results.items()}


def wrote(results: Mapping[str, Any], *, units: str, caller: str, where: str = "") -> None:
    """Log what results are."""
    slots = ", ".join(address.replace("/", "['", 1) + "']" for address, value in results.items() if value is not None)
    logger.info("%s wrote %s%s: %s.", caller, slots, where and f" into {where}", units)
