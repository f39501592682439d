"""The few lines that differ between generations of the libraries below."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["layer_names"]


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers, in their order.

    From anndata 0.13 on, ``adata.layers`` also lists ``X``, as the layer named `None`.
    """
    return [name for name in adata.layers if name is not None]
