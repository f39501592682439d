"""What plots share: how they end, tables of numbers in colours, cells as points, and names in messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from scfoundry._arguments import quoted
from scfoundry._keys import Keys

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

__all__ = ["coordinates", "heatmap", "require_columns", "scatter", "scores_of", "shown"]

# Of more columns the numbers would not fit.
MOST_NUMBERED = 24
CELL = 0.42  # inches
# Areas of points, in square points: of all cells together, as scanpy has it, and of one among few.
MOST_INK, LARGEST_POINT = 120_000, 30.0

Drawn = TypeVar("Drawn")


def require_columns(adata: AnnData, *keys: str, run: str) -> None:
    """Refuse columns that ``obs`` does not have; ``run`` is the call that would write them."""
    if missing := [key for key in keys if key not in adata.obs]:
        msg = f"adata.obs has no column {quoted(missing)}; it has {quoted(adata.obs.columns, 10)}. Run {run} first."
        raise ValueError(msg)


def scores_of(adata: AnnData, key: str) -> pd.DataFrame:
    """Probabilities of labels, cells x labels, of the result of a name."""
    scores = adata.obsm.get(Keys.scores(key))
    if scores is None or not hasattr(scores, "columns"):
        msg = (
            f"adata.obsm has no table {Keys.scores(key)!r} of probabilities. Run it first: "
            "sf.tl.zero_shot_annotate(adata, texts)."
        )
        raise ValueError(msg)
    return scores


def heatmap(table: pd.DataFrame, *, ax: Axes | None, label: str, cmap: str) -> Axes:
    """Shares of a table as colours from 0 to 1, with the numbers where they fit."""
    import matplotlib.pyplot as plt

    n_rows, n_columns = table.shape
    if ax is None:
        longest = max((len(str(name)) for name in table.columns), default=0)
        width, height = 2.6 + CELL * n_columns, 0.9 + CELL * n_rows + 0.07 * longest
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    values = table.to_numpy(dtype=float)
    drawn = ax.imshow(values, cmap=cmap, vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(np.arange(n_columns), table.columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(np.arange(n_rows), table.index)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if n_columns <= MOST_NUMBERED:
        for row, column in np.argwhere(values >= 0.005):
            share = values[row, column]
            text = f"{share:.2f}".replace("0.", ".")
            ax.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if share > 0.6 else "0.2")
    ax.figure.colorbar(drawn, ax=ax, label=label, shrink=min(1.0, 4 / n_rows + 0.3))
    return ax


def coordinates(adata: AnnData, basis: str) -> NDArray[np.floating]:
    """Two coordinates of every cell, (n_obs, 2)."""
    for key in (f"X_{basis}", basis):
        if key in adata.obsm:
            places = np.asarray(adata.obsm[key])
            if places.ndim == 2 and places.shape[1] >= 2:
                return places[:, :2]
    msg = (
        f"adata.obsm has no coordinates {basis!r}; it has {quoted(adata.obsm, 10)}. Compute them: "
        'sc.pp.neighbors(adata, use_rep="X_cellplm"); sc.tl.umap(adata).'
    )
    raise ValueError(msg)


def scatter(
    places: NDArray[np.floating],
    colors: ArrayLike | None,
    *,
    ax: Axes | None,
    size: float | None,
    n_cells: int | None = None,
    label: str | None = None,
    cmap: str | None = None,
    large: bool = False,
) -> Axes:
    """Cells as points, grey without ``colors``; ``n_cells`` of the whole picture decide their size."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 4.8), layout="constrained")
    area = size if size is not None else MOST_INK / max(n_cells or len(places), MOST_INK / LARGEST_POINT)
    how: dict[str, Any] = {"c": colors, "cmap": cmap} if cmap else {"color": "0.85" if colors is None else [colors]}
    ax.scatter(
        places[:, 0],
        places[:, 1],
        s=LARGEST_POINT if large and size is None else area,
        linewidths=0,
        rasterized=True,
        **how,
    )
    if label is not None:
        ax.set(xticks=[], yticks=[], xlabel=f"{label.upper()}1", ylabel=f"{label.upper()}2")
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def shown(axes: Drawn, show: bool | None, save: str | Path | None = None) -> Drawn | None:
    """Save the figure if there is a file for it; show it and return nothing, or return the axes."""
    import matplotlib.pyplot as plt

    if save is not None:
        np.ravel(np.asarray(axes, dtype=object))[0].figure.savefig(save, dpi=150, bbox_inches="tight")
    if not show:
        return axes
    plt.show()
    return None
