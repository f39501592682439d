"""The part of the user's data that a model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudata import MuData

from scfoundry._arguments import quoted

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["modality_of", "to_write"]


def modality_of(adata: AnnData | MuData, modality: str) -> AnnData:
    """The AnnData with gene expression; a ValueError where a `MuData` has no such modality."""
    if not isinstance(adata, MuData):
        return adata
    if modality not in adata.mod:
        msg = f"The MuData has no modality {modality!r}; it has {quoted(adata.mod)}. Pass modality=..."
        raise ValueError(msg)
    return adata.mod[modality]


def to_write(adata: AnnData | MuData, modality: str, *, copy: bool, caller: str) -> tuple[AnnData | MuData, AnnData]:
    """What the user gets back, and the AnnData in it that results are written to.

    A copy of data on disk is one in memory. Refused are parts of a file, to which nothing can be added, and copies of a
    `MuData` on disk.
    """
    cells = modality_of(adata, modality)
    if isinstance(adata, MuData):
        if cells.isbacked and (copy or cells.is_view):
            msg = (
                f"{caller}: a modality on disk can be neither copied nor written to in part. Load it: "
                f'adata = mdata.mod["{modality}"].to_memory(); {caller}(adata, ...).'
            )
            raise ValueError(msg)
        copied = adata.copy() if copy else adata
        return copied, copied.mod[modality]
    if copy:
        cells = _in_memory(adata)
        return cells, cells
    if cells.isbacked and cells.is_view:
        msg = (
            f"{caller}: adata is a view of data on disk, to which no results can be added. Load its "
            f"{cells.n_obs:,} cells: adata = adata.to_memory()."
        )
        raise ValueError(msg)
    return adata, cells


def _in_memory(adata: AnnData) -> AnnData:
    """A copy, of which nothing stays on disk."""
    # A view reads its part when it is copied; `AnnData.copy` fails on arrays in files.
    stored = () if adata.is_view else (adata.X, *adata.layers.values(), *adata.obsm.values(), *adata.obsp.values())
    on_disk = adata.isbacked or not all(hasattr(values, "copy") for values in stored if values is not None)
    return adata.to_memory() if on_disk else adata.copy()
