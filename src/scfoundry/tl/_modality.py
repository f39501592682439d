"""The part of the user's data that a model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudata import MuData

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["modality_of"]


def modality_of(adata: AnnData | MuData, modality: str) -> AnnData:
    """The AnnData with gene expression.

    Raises
    ------
    ValueError
        If a `MuData` has no such modality.
    """
    if not isinstance(adata, MuData):
        return adata
    if modality not in adata.mod:
        msg = f"The MuData has no modality {modality!r}; it has {', '.join(map(repr, adata.mod))}. Pass modality=..."
        raise ValueError(msg)
    return adata.mod[modality]
