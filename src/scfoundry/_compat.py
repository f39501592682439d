"""The few lines that differ between generations of the libraries below."""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["data_frame", "layer_names", "obs_column", "versions"]


@functools.cache
def versions() -> dict[str, str]:
    """Those that results are recorded with; to read them takes as long as to embed a thousand cells."""
    return {name: version(name) for name in ("torch", "scvi-tools", "anndata")}


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers, in their order.

    From anndata 0.13 on, ``adata.layers`` also lists ``X``, as the layer named `None`.
    """
    return [name for name in adata.layers if name is not None]


def obs_column(adata: AnnData, key: object) -> pd.Series:
    """A column of ``obs``, in memory."""
    return data_frame(adata.obs)[key]


def data_frame(table: Any) -> Any:
    """A table of a lazily opened store (`anndata.experimental.read_lazy`) in memory; everything else as it is."""
    import pandas as pd

    lazy = hasattr(table, "to_memory") and not isinstance(table, pd.DataFrame)
    return table.to_memory() if lazy else table
