"""What is registered of training data: refused by its name where the data lack it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from scfoundry._arguments import quoted
from scfoundry._compat import layer_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

__all__ = ["refuse_lazy_columns", "refuse_missing_keys"]

# What scvi-tools passes beside the arguments of a model.
FURTHER = {"source_registry", "extend_categories", "allow_missing_fields"}


def refuse_lazy_columns(adata: AnnData) -> None:
    """Refuse a table of cells that was opened lazily where columns of it are to be registered; counts may stay so."""
    if not isinstance(adata.obs, pd.DataFrame):
        msg = (
            "Columns of obs are registered, and obs was opened lazily. Read it, and leave the counts where they are: "
            "adata = anndata.AnnData(adata.X, obs=adata.obs.to_memory(), var=adata.var.to_memory())."
        )
        raise ValueError(msg)


def refuse_missing_keys(
    adata: AnnData, arguments: Mapping[str, Any], further: Mapping[str, Any], *, caller: str
) -> None:
    """Refuse arguments that there are not, and keys of slots that the data do not have."""
    if unknown := sorted(further.keys() - FURTHER):
        known = ", ".join(name for name in arguments if name not in ("cls", "kwargs", "adata"))
        msg = f"{caller} has no argument {quoted(unknown)}; known: {known}. Leave it out."
        raise ValueError(msg)
    slots = {"layer": layer_names(adata), "spatial_key": list(adata.obsm)}
    for argument, keys in arguments.items():
        if argument != "layer" and not argument.endswith(("_key", "_keys")):
            continue
        held = slots.get(argument, list(adata.obs.columns))
        asked = [keys] if isinstance(keys, str) else keys if isinstance(keys, list | tuple) else []
        if missing := [key for key in asked if key not in held]:
            present = quoted(held)
            msg = f"{caller}: adata has no {argument}={missing[0]!r}; it has {present}. Pass one of them, or None."
            raise ValueError(msg)
