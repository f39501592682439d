"""Attention between cells: as arrows in the tissue, or between groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from scfoundry._arguments import quoted, require_column
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.pl._drawing import shown

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData
    from numpy.typing import NDArray

__all__ = ["cell_attention"]

CALLER = "sf.pl.cell_attention"
Kind = Literal["arrows", "stream", "groups"]

# Grid of a stream plot, how far a cell counts for it, in steps of the grid, and where its weight is cut off.
GRID = 40
REACH, CUT_OFF = 1.5, 4.0
# Enrichments from 0.9 to 1.1 at least fill the colours: deviations of a thousandth are no pattern to look at.
LEAST_REACH = 0.1
# Share of the section's longer side left free around it.
MARGIN = 0.05


def cell_attention(
    adata: AnnData | MuData,
    key: str = Keys.CELL_ATTENTION,
    *,
    kind: Kind | None = None,
    color: str | None = None,
    context: str | None = None,
    palette: Any = None,
    size: float | None = None,
    modality: str = Keys.RNA,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw where the attention of cells goes.

    An arrow says to which side of the tissue a cell attends: from the middle of the section, the centre of even
    attention, to the centre of the kept cells, weighted by what they get beyond the least of them. With
    ``scale="shares"`` nearly all cells attend to the same few, and all arrows are alike; ``scale="specific"`` shows
    what is particular to each. The longest arrow has a fixed length: compare lengths within a picture only.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.cell_attention`. Cells that keep fewer than two weights get no arrow.
    key
        Slot of ``uns`` that it wrote.
    kind
        ``"arrows"``, one per cell; ``"stream"``, lines that follow their local mean; ``"groups"``, a heatmap of the
        enrichment between groups, its colours from 0.9 to 1.1 or wider. Arrows where there are coordinates if `None`,
        groups otherwise.
    color
        Column of ``obs`` that colours the cells, numbers by a continuous scale; the groups of the result if `None`.
    context
        Sample, section or field of view to draw; needed where there are several, for arrows and streams.
    palette
        Colour of every group, colours in their order, or the name of a colour map, which is what numbers need;
        ``adata.uns["<color>_colors"]`` where scanpy has left them, or matplotlib's own if `None`.
    size
        Area of the points, in square points.
    modality
        Modality of a `MuData`.
    ax
        Where to draw; a new figure if `None`.
    show
        Show the figure and return nothing.
    save
        File to write the figure to, of any kind that matplotlib knows.

    Returns
    -------
    The axes, unless ``show``.

    Raises
    ------
    ValueError
        If there is no such result, it has no groups, coordinates or arrows to draw; a kind, context or column does not
        exist, or the palette does not fit it.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.cell_attention(adata, groupby="bulk_labels")
    >>> sf.pl.cell_attention(adata)
    """
    import matplotlib.pyplot as plt

    from scfoundry.data.modality import modality_of

    if kind is not None and kind not in get_args(Kind):
        msg = f"kind must be one of {quoted(get_args(Kind))}; got {kind!r}. What there is: kind=None."
        raise ValueError(msg)
    adata = modality_of(adata, modality)
    if Keys.PARAMS not in adata.uns.get(key, {}) or key not in adata.obsp:
        msg = f"adata has no result {key!r} of sf.tl.cell_attention. Run it first: sf.tl.cell_attention(adata)."
        raise ValueError(msg)
    params = adata.uns[key][Keys.PARAMS]
    kind = kind or ("arrows" if "spatial_key" in params else "groups")
    if kind == "groups":
        if context is not None:
            msg = f'Groups are summed over all contexts; got context={context!r}. Leave it out, or pass kind="arrows".'
            raise ValueError(msg)
        axes = _heatmap(_table(adata, key), ax)
    else:
        rows = _rows(adata, params, context)
        xy = _coordinates(adata, params, rows, kind)
        directions = _directions(adata, key, rows, xy)
        axes = plt.subplots(figsize=(6, 5), layout="constrained")[1] if ax is None else ax
        column = params.get("groupby") if color is None else color
        # Numbers that group the cells are names.
        continuous = column != params.get("groupby")
        _points(adata, rows, xy, column, continuous=continuous, palette=palette, size=size, ax=axes)
        (_stream if kind == "stream" else _arrows)(xy, directions, axes)
        axes.set_aspect("equal")
        low, high, edge = xy.min(0), xy.max(0), MARGIN * np.ptp(xy, axis=0).max()
        # Images have their origin at the top.
        axes.set(xlim=(low[0] - edge, high[0] + edge), ylim=(high[1] + edge, low[1] - edge))
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="", title=context or "")
    return shown(axes, show, save)


def _table(adata: AnnData, key: str) -> pd.DataFrame:
    """Enrichment, rows are the groups that attend."""
    if Keys.GROUPS not in adata.uns[key]:
        msg = "This result has no groups. Compute them: sf.tl.cell_attention(adata, groupby=...)."
        raise ValueError(msg)
    groups = adata.uns[key][Keys.GROUPS]
    names = list(dict.fromkeys(groups["attending"]))
    return groups.pivot(index="attending", columns="attended", values="enrichment").loc[names, names]


def _rows(adata: AnnData, params: dict[str, Any], context: str | None) -> NDArray[np.int64]:
    """Cells of the context to draw."""
    batch_key = params.get("batch_key")
    if batch_key is None:
        if context is not None:
            msg = (
                f"All cells are one context in this result; got context={context!r}. Leave it out, or name the "
                "samples: sf.tl.cell_attention(adata, batch_key=...)."
            )
            raise ValueError(msg)
        return np.arange(adata.n_obs)
    if batch_key not in adata.obs.columns:
        msg = f"adata.obs no longer has the column {batch_key!r} that named the contexts. Put it back to draw them."
        raise ValueError(msg)
    batches = adata.obs[batch_key].astype(str).to_numpy()
    names = list(dict.fromkeys(batches))
    if context is None and len(names) > 1:
        msg = f"Coordinates of several contexts cannot share a picture; none was given. Pass context= one of {names}."
        raise ValueError(msg)
    if context is not None and context not in names:
        msg = f"adata.obs[{batch_key!r}] has no context {context!r}. Pass context= one of {names}."
        raise ValueError(msg)
    return np.flatnonzero(batches == (names[0] if context is None else context))


def _coordinates(adata: AnnData, params: dict[str, Any], rows: NDArray[np.int64], kind: Kind) -> NDArray[np.float64]:
    """Where the cells to draw lie, (n, 2)."""
    spatial_key = params.get("spatial_key", Keys.SPATIAL)
    if spatial_key not in adata.obsm:
        msg = (
            f"adata.obsm has no {spatial_key!r}, so arrows have nowhere to lead. Between groups: "
            'sf.pl.cell_attention(adata, kind="groups").'
        )
        raise ValueError(msg)
    xy = np.asarray(adata.obsm[spatial_key], dtype=float)[rows, :2]
    if n_unplaced := int(np.sum(~np.isfinite(xy).all(1))):
        msg = (
            f"{n_unplaced} of the {len(xy)} cells to draw have no coordinates in adata.obsm[{spatial_key!r}]. Draw a "
            'context whose cells have some: context=...; or groups: kind="groups".'
        )
        raise ValueError(msg)
    if kind == "stream" and not np.ptp(xy, axis=0).all():
        msg = 'All cells lie on a line, and streams need a plane. Draw arrows: kind="arrows".'
        raise ValueError(msg)
    return xy


def _directions(adata: AnnData, key: str, rows: NDArray[np.int64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the middle of the section to the centre of the cells that a cell attends to, (n, 2); 0 where unknown."""
    weights = adata.obsp[key][rows][:, rows].tocsr()
    n_kept = np.diff(weights.indptr)
    lead = np.flatnonzero(n_kept > 1)
    if not len(lead):
        msg = (
            "No cell to draw has two kept weights, which a direction takes. Keep more, on all cells that are to be "
            "drawn: sf.tl.cell_attention(adata, ..., k=30)."
        )
        raise ValueError(msg)
    if n_without := len(rows) - len(lead):
        logger.warning("%s: %d of %d cells keep fewer than two weights and get no arrow.", CALLER, n_without, len(rows))
    if n_part := int(np.sum(n_kept[lead] < min(adata.uns[key][Keys.PARAMS].get("k", 0), np.sum(n_kept > 0)))):
        logger.warning(
            "%s: %d cells have lost a part of their kept weights, to cells that are no longer here; their arrows "
            "follow the rest. Run sf.tl.cell_attention on the cells to draw.",
            CALLER,
            n_part,
        )
    directions = np.zeros_like(xy)
    for i in lead:
        kept = slice(weights.indptr[i], weights.indptr[i + 1])
        beyond = weights.data[kept] - weights.data[kept].min()
        if beyond.sum() > 0:
            directions[i] = beyond @ xy[weights.indices[kept]] / beyond.sum() - xy.mean(0)
    return directions


def _points(
    adata: AnnData,
    rows: NDArray[np.int64],
    xy: NDArray[np.float64],
    column: str | None,
    *,
    continuous: bool,
    palette: Any,
    size: float | None,
    ax: Axes,
) -> None:
    """Draw the cells, coloured by a column."""
    from matplotlib.colors import Colormap

    area = 12000 / len(rows) if size is None else size
    if column is None:
        ax.scatter(xy[:, 0], xy[:, 1], s=area, color="0.8", linewidths=0)
        return
    require_column(adata.obs, column, fix="color")
    values = adata.obs[column].iloc[rows]
    if continuous and pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        if palette is not None and not isinstance(palette, str | Colormap):
            msg = (
                f"adata.obs[{column!r}] holds numbers, which take the name of a colour map as palette; got "
                f'{palette!r}. For example: palette="viridis".'
            )
            raise ValueError(msg)
        drawn = ax.scatter(xy[:, 0], xy[:, 1], s=area, c=values, cmap=palette or "viridis", linewidths=0)
        ax.figure.colorbar(drawn, ax=ax, label=column, shrink=0.7)
        return
    groups = pd.Categorical(adata.obs[column])
    codes, colours = groups.codes[rows], _colours(adata, column, list(groups.categories), palette)
    for code, name in enumerate(groups.categories):
        own = xy[codes == code]
        if len(own):
            ax.scatter(own[:, 0], own[:, 1], s=area, color=colours[name], linewidths=0, label=str(name))
    without = xy[codes < 0]
    ax.scatter(without[:, 0], without[:, 1], s=area, color="0.85", linewidths=0)
    ax.legend(title=column, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=1.5)


def _colours(adata: AnnData, column: str, names: list[Any], palette: Any) -> dict[Any, Any]:
    import matplotlib.pyplot as plt

    if isinstance(palette, dict):
        if missing := [name for name in names if name not in palette]:
            msg = f"The palette has no colour for {quoted(missing)} of adata.obs[{column!r}]. Add it."
            raise ValueError(msg)
        return palette
    if isinstance(palette, str):
        palette = plt.get_cmap(palette)(np.linspace(0, 1, len(names)))
    given = adata.uns.get(f"{column}_colors") if palette is None else palette
    cycle = plt.get_cmap("tab10" if len(names) <= 10 else "tab20").colors if given is None else given  # type: ignore[attr-defined]
    return {name: cycle[i % len(cycle)] for i, name in enumerate(names)}


def _arrows(xy: NDArray[np.float64], directions: NDArray[np.float64], ax: Axes) -> None:
    """One arrow per cell; their lengths compare with each other."""
    spacing = np.ptp(xy, axis=0).max() / np.sqrt(len(xy))
    lengths = np.linalg.norm(directions, axis=1)
    longest = lengths.max() or 1.0
    arrows = directions * (2 * spacing / longest)
    ax.quiver(*xy.T, *arrows.T, angles="xy", scale_units="xy", scale=1, width=0.003, color="0.15", alpha=0.8)


def _stream(xy: NDArray[np.float64], directions: NDArray[np.float64], ax: Axes) -> None:
    """Lines along the local mean of the arrows, where there are cells."""
    low, high = xy.min(0), xy.max(0)
    xs, ys = (np.linspace(low[d], high[d], GRID) for d in (0, 1))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    reach = REACH * np.ptp(xy, axis=0).max() / min(np.sqrt(len(xy)), GRID)
    mean = np.full_like(grid, np.nan)
    tree = cKDTree(xy)
    # Node by node: grid x cells would not fit in memory.
    for i in np.flatnonzero(tree.query(grid)[0] <= 1.5 * reach):
        near = tree.query_ball_point(grid[i], CUT_OFF * reach)
        weights = np.exp(-((xy[near] - grid[i]) ** 2).sum(1) / (2 * reach**2))
        mean[i] = weights @ directions[near] / weights.sum()
    u, v = (mean[:, d].reshape(GRID, GRID) for d in (0, 1))
    ax.streamplot(xs, ys, u, v, density=1.3, color="0.15", linewidth=0.8, arrowsize=0.9)


def _heatmap(table: pd.DataFrame, ax: Axes | None) -> Axes:
    """Enrichment between groups, even attention in the middle of the colours."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    if ax is None:
        side = 2 + 0.45 * len(table)
        _, ax = plt.subplots(figsize=(side + 1, side), layout="constrained")
    values = table.to_numpy(dtype=float)
    reach = max(np.nanmax(np.abs(values - 1)), LEAST_REACH)
    ax.set_facecolor("0.85")
    image = ax.imshow(values, cmap="RdBu_r", vmin=1 - reach, vmax=1 + reach)
    ax.set_xticks(range(len(table)), table.columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlabel="attended to", ylabel="attending")
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, label="enrichment over even attention", shrink=0.7)
    bar.formatter = ScalarFormatter(useOffset=False)
    return ax
