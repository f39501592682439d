"""Groups of cells that a model sees together, and where their cells lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import quoted
from scfoundry._compat import obs_column
from scfoundry._settings import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["Context", "contexts", "coordinates", "unit_coordinates"]


@dataclass(frozen=True)
class Context:
    """Cells of one tissue, sample or field of view."""

    name: str  # category in obs, "all" where all cells form one context
    rows: NDArray[np.int64]  # row numbers of its cells, in obs order


def contexts(
    adata: AnnData, batch_key: str | None = None, *, name: str = "adata", argument: str = "batch_key"
) -> list[Context]:
    """Divide the cells into contexts, one per category of ``obs[batch_key]`` in order of first appearance.

    All cells form one context without a key. Cells without a value are refused. ``name`` and ``argument`` are what the
    user calls ``adata`` and ``batch_key``, for messages.

    >>> import numpy as np
    >>> from anndata import AnnData
    >>> adata = AnnData(np.ones((3, 2)))
    >>> adata.obs["sample"] = ["tumour", "blood", "tumour"]
    >>> [(context.name, context.rows.tolist()) for context in contexts(adata, "sample")]
    [('tumour', [0, 2]), ('blood', [1])]
    """
    if batch_key is None:
        return [Context("all", np.arange(adata.n_obs))]
    if batch_key not in adata.obs.columns:
        present = quoted(adata.obs.columns)
        msg = (
            f"{name}.obs has no column {batch_key!r}; its columns: {present}. Pass one of them as {argument}, or None."
        )
        raise ValueError(msg)
    codes, names = pd.factorize(np.asarray(obs_column(adata, batch_key)))
    if n_missing := int(np.sum(codes < 0)):
        msg = (
            f"{n_missing} of {adata.n_obs} cells have no value in {name}.obs[{batch_key!r}], hence no context. "
            f'Drop them with {name} = {name}[{name}.obs["{batch_key}"].notna()].copy(), or fill the column.'
        )
        raise ValueError(msg)
    # A stable sort keeps the cells of a context in obs order.
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    return [Context(str(category), rows) for category, rows in zip(names, members, strict=True)]


def coordinates(
    adata: AnnData, spatial_key: str | None, groups: Sequence[Context], *, name: str = "adata"
) -> dict[str, NDArray[np.float32]]:
    """Places of the cells, (n_cells, 2) by context of those that have some: x and y from its least on.

    A context in which no cell has coordinates is one without positions, so that dissociated and spatial samples can
    stand in one AnnData. A ValueError where ``obsm`` has no such key, what is there is text or has fewer than two
    columns, no cell has coordinates, or some but not all cells of a context have.
    """
    if spatial_key is None:
        return {}
    if spatial_key not in adata.obsm:
        present = quoted(adata.obsm)
        msg = f"{name}.obsm has no {spatial_key!r}; its keys: {present}. Pass one of them as spatial_key, or None."
        raise ValueError(msg)
    xy = np.asarray(adata.obsm[spatial_key])
    n_columns = xy.shape[1] if xy.ndim == 2 else 1
    if n_columns < 2:
        msg = (
            f"{name}.obsm[{spatial_key!r}] has shape {xy.shape}, but positions need two columns, x and y: "
            f'{name}.obsm["{spatial_key}"] = {name}.obs[["x", "y"]].to_numpy()'
        )
        raise ValueError(msg)
    if n_columns > 2:
        logger.warning("%s.obsm[%r] has %d columns; the first two are taken as x and y.", name, spatial_key, n_columns)
    try:
        xy = _as_numbers(xy[:, :2])
    except (TypeError, ValueError) as error:
        msg = (
            f"{name}.obsm[{spatial_key!r}] holds values that are no numbers ({error}), but x and y are. Where they "
            f'stand for none: {name}.obsm["{spatial_key}"] = pd.DataFrame({name}.obsm["{spatial_key}"], '
            f'{name}.obs_names).apply(pd.to_numeric, errors="coerce").to_numpy()'
        )
        raise ValueError(msg) from error
    placed = np.asarray((np.abs(xy) <= np.finfo(np.float32).max / 2).all(axis=1))
    if len(xy) and not placed.any():
        msg = (
            f"No cell has finite coordinates in {name}.obsm[{spatial_key!r}]. Put them there: "
            f'{name}.obsm["{spatial_key}"] = {name}.obs[["x", "y"]].to_numpy(); or do without: spatial_key=None.'
        )
        raise ValueError(msg)
    positions = {}
    for group in groups:
        n_unplaced = int(np.sum(~placed[group.rows]))
        if n_unplaced == len(group.rows):
            continue
        if n_unplaced:
            msg = (
                f"{n_unplaced} of {len(group.rows)} cells of context {group.name!r} have missing or infinite "
                f"coordinates in {name}.obsm[{spatial_key!r}]; a context needs all of them, or none. To drop every "
                f'cell without: {name} = {name}[np.isfinite({name}.obsm["{spatial_key}"]).all(axis=1)].copy()'
            )
            raise ValueError(msg)
        # Far from the origin, single precision would not tell neighbours apart.
        positions[group.name] = (xy[group.rows] - xy[group.rows].min(0)).astype(np.float32)
    return positions


def _as_numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind in "cmM":  # numpy would take the real part, or count days
        msg = f"their type is {values.dtype}"
        raise TypeError(msg)
    return values.astype(np.float64)


def unit_coordinates(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a context's coordinates (n, 2) into [0, 1], keeping its proportions."""
    low, high = xy.min(0), xy.max(0)
    return (xy - low) / np.maximum((high - low).max(), np.float32(1e-12))
