"""Attention between cells: as arrows in the tissue, or between groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scfoundry._keys import Keys

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["cell_attention"]

Kind = Literal["arrows", "stream", "groups"]

# Grid of a stream plot, and how far a cell counts for it, in steps of the grid.
GRID = 40
REACH = 1.5
# Share of the section's longer side left free around it.
MARGIN = 0.05


def cell_attention(
    adata: AnnData,
    key: str = Keys.CELL_ATTENTION,
    *,
    kind: Kind | None = None,
    color: str | None = None,
    context: str | None = None,
    palette: Any = None,
    size: float | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw where the attention of cells goes.

    An arrow says to which side of the tissue a cell attends: from where its attention would have its centre if it were
    even, the middle of the section, to the centre of the cells that it attends to most. These are the ones that were
    kept, weighted by what they get beyond the least of them. With ``scale="shares"`` nearly all cells attend to the
    same few, and all arrows are alike; ``sf.tl.cell_attention(..., scale="specific")`` shows what is particular to
    each. The longest arrow has a fixed length: compare lengths within a picture only.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.cell_attention`.
    key
        Slot of ``uns`` that it wrote.
    kind
        ``"arrows"``, one per cell; ``"stream"``, lines that follow their local mean; ``"groups"``, a heatmap of the
        enrichment between groups. Arrows where there are coordinates if `None`, groups otherwise.
    color
        Column of ``obs`` that colours the cells; the groups of the result if `None`.
    context
        Sample, section or field of view to draw; needed where there are several, for arrows and streams.
    palette
        Colour of every group, or names of colours in their order; ``adata.uns["<color>_colors"]`` where scanpy has left
        them, or matplotlib's own if `None`.
    size
        Area of the points, in square points.
    ax
        Where to draw; a new figure if `None`.
    show
        Show the figure and return nothing.

    Returns
    -------
    The axes, unless ``show``.

    Raises
    ------
    ValueError
        If there is no such result, it has no groups or coordinates to draw, or a context or column does not exist.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.cell_attention(adata, group_by="bulk_labels")
    >>> sf.pl.cell_attention(adata)
    """
    import matplotlib.pyplot as plt

    if Keys.PARAMS not in adata.uns.get(key, {}) or key not in adata.obsp:
        msg = f"adata has no result {key!r} of sf.tl.cell_attention. Run it first: sf.tl.cell_attention(adata)."
        raise ValueError(msg)
    params = adata.uns[key][Keys.PARAMS]
    kind = kind or ("arrows" if "spatial_key" in params else "groups")
    if kind == "groups":
        axes = _heatmap(_table(adata, key), ax)
    else:
        rows = _rows(adata, params, context)
        xy = _coordinates(adata, params)[rows]
        directions = _directions(adata, key, rows, xy)
        axes = plt.subplots(figsize=(6, 5), layout="constrained")[1] if ax is None else ax
        column = params.get("group_by") if color is None else color
        _points(adata, rows, xy, column, palette, size, axes)
        (_stream if kind == "stream" else _arrows)(xy, directions, axes)
        axes.set_aspect("equal")
        low, high, edge = xy.min(0), xy.max(0), MARGIN * np.ptp(xy, axis=0).max()
        # Images have their origin at the top.
        axes.set(xlim=(low[0] - edge, high[0] + edge), ylim=(high[1] + edge, low[1] - edge))
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="", title=context or "")
    if show:
        plt.show()
        return None
    return axes


def _table(adata: AnnData, key: str) -> pd.DataFrame:
    """Enrichment, rows are the groups that attend."""
    if Keys.GROUPS not in adata.uns[key]:
        msg = "This result has no groups. Compute them: sf.tl.cell_attention(adata, group_by=...)."
        raise ValueError(msg)
    groups = adata.uns[key][Keys.GROUPS]
    names = list(dict.fromkeys(groups["attending"]))
    return groups.pivot(index="attending", columns="attended", values="enrichment").loc[names, names]


def _rows(adata: AnnData, params: dict[str, Any], context: str | None) -> NDArray[np.int64]:
    """Cells of the context to draw."""
    batch_key = params.get("batch_key")
    if batch_key is None:
        return np.arange(adata.n_obs)
    batches = adata.obs[batch_key].astype(str).to_numpy()
    names = list(dict.fromkeys(batches))
    if context not in names and len(names) > 1:
        found = "none was given" if context is None else f"got {context!r}"
        msg = f"Coordinates of several contexts cannot share a picture; {found}. Pass context= one of {names}."
        raise ValueError(msg)
    return np.flatnonzero(batches == (context or names[0]))


def _coordinates(adata: AnnData, params: dict[str, Any]) -> NDArray[np.float64]:
    """Where the cells lie."""
    spatial_key = params.get("spatial_key", Keys.SPATIAL)
    if spatial_key not in adata.obsm:
        msg = (
            f"adata.obsm has no {spatial_key!r}, so arrows have nowhere to lead. Between groups: "
            'sf.pl.cell_attention(adata, kind="groups").'
        )
        raise ValueError(msg)
    return np.asarray(adata.obsm[spatial_key], dtype=float)[:, :2]


def _directions(adata: AnnData, key: str, rows: NDArray[np.int64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the middle of the section to the centre of the cells that a cell attends to, (n, 2)."""
    weights = adata.obsp[key][rows][:, rows].tocsr()
    directions = np.zeros_like(xy)
    for i in range(len(rows)):
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
    palette: Any,
    size: float | None,
    ax: Axes,
) -> None:
    """Draw the cells, coloured by group."""
    area = 12000 / len(rows) if size is None else size
    if column is None:
        ax.scatter(xy[:, 0], xy[:, 1], s=area, color="0.8", linewidths=0)
        return
    if column not in adata.obs.columns:
        present = ", ".join(map(repr, adata.obs.columns)) or "none"
        msg = f"adata.obs has no column {column!r}; its columns: {present}. Pass one of them as color."
        raise ValueError(msg)
    groups = pd.Categorical(adata.obs[column])
    colours = _colours(adata, column, list(groups.categories), palette)
    for code, name in enumerate(groups.categories):
        own = xy[groups.codes[rows] == code]
        if len(own):
            ax.scatter(own[:, 0], own[:, 1], s=area, color=colours[name], linewidths=0, label=str(name))
    without = xy[groups.codes[rows] < 0]
    ax.scatter(without[:, 0], without[:, 1], s=area, color="0.85", linewidths=0)
    ax.legend(title=column, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=1.5)


def _colours(adata: AnnData, column: str, names: list[Any], palette: Any) -> dict[Any, Any]:
    import matplotlib.pyplot as plt

    if isinstance(palette, dict):
        return palette
    given = adata.uns.get(f"{column}_colors") if palette is None else palette
    cycle = plt.get_cmap("tab10" if len(names) <= 10 else "tab20").colors if given is None else given  # type: ignore[attr-defined]
    return {name: cycle[i % len(cycle)] for i, name in enumerate(names)}


def _arrows(xy: NDArray[np.float64], directions: NDArray[np.float64], ax: Axes) -> None:
    """One arrow per cell; their lengths compare with each other."""
    spacing = np.ptp(xy, axis=0).max() / np.sqrt(len(xy))
    lengths = np.linalg.norm(directions, axis=1)
    longest = lengths.max() or 1.0
    ax.quiver(
        *xy.T,
        *(directions * (2 * spacing / longest)).T,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.003,
        color="0.15",
        alpha=0.8,
    )


def _stream(xy: NDArray[np.float64], directions: NDArray[np.float64], ax: Axes) -> None:
    """Lines along the local mean of the arrows, where there are cells."""
    low, high = xy.min(0), xy.max(0)
    xs, ys = (np.linspace(low[d], high[d], GRID) for d in (0, 1))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    reach = REACH * np.ptp(xy, axis=0).max() / min(np.sqrt(len(xy)), GRID)
    squared = ((grid[:, None] - xy[None]) ** 2).sum(-1)
    weights = np.exp(-squared / (2 * reach**2))
    mean = weights @ directions / np.maximum(weights.sum(1, keepdims=True), np.finfo(float).tiny)
    mean[squared.min(1) > (1.5 * reach) ** 2] = np.nan
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
    reach = np.nanmax(np.abs(values - 1)) or 1.0
    ax.set_facecolor("0.85")
    image = ax.imshow(values, cmap="RdBu_r", vmin=1 - reach, vmax=1 + reach)
    ax.set_xticks(range(len(table)), table.columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlabel="attended to", ylabel="attending")
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, label="enrichment over even attention", shrink=0.7)
    bar.formatter = ScalarFormatter(useOffset=False)
    return ax
