"""The few lines that differ between generations of the libraries below."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["layer_names", "obs_column"]


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers, in their order.

    From anndata 0.13 on, ``adata.layers`` also lists ``X``, as the layer named `None`.
    """
    return [name for name in adata.layers if name is not None]


def obs_column(adata: AnnData, key: str) -> pd.Series:
    """A column of ``obs``, in memory.

    A lazily opened store (`anndata.experimental.read_lazy`) has a table of xarray in place of a data frame.
    """
    import pandas as pd

    obs = adata.obs
    return (obs if isinstance(obs, pd.DataFrame) else obs.to_memory())[key]
