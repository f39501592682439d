"""Scores of embeddings as a table of dots and bars (Luecken et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry._keys import Keys
from scfoundry.pl._drawing import shown
from scfoundry.tasks.benchmarking.scib import AGGREGATES, BATCH, BIO

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["benchmark"]

# In inches: a column of dots, one of bars, a row.
DOT, BAR, ROW = 0.72, 0.95, 0.42
GROUPS = {"bio conservation": BIO, "batch correction": BATCH, "aggregate": AGGREGATES}
COLOURS = {"bio conservation": "Blues", "batch correction": "Greens", "aggregate": "Purples"}


def benchmark(
    adata: AnnData | pd.DataFrame,
    key: str = Keys.BENCHMARK,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw scores of embeddings as scIB does, best first: single scores as dots, what they add up to as bars.

    Colours go from the worst to the best of a column; the numbers are the scores themselves, not rescaled.

    Parameters
    ----------
    adata
        Cells after `sf.tl.benchmark`, or the table that it returned.
    key
        Key of ``uns``.
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
        If there are no such scores.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.benchmark(adata, "cellplm", label_key="cell_type", batch_key="donor")  # doctest: +SKIP
    >>> sf.pl.benchmark(adata)  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    scores = _scores(adata, key)
    places, right = {}, 0.0
    for group, names in GROUPS.items():
        width = BAR if group == "aggregate" else DOT
        for name in (name for name in names if name in scores):
            places[name] = (group, right, width)
            right += width
        right += 0.15
    height = ROW * (len(scores) + 2)
    if ax is None:
        _, ax = plt.subplots(figsize=(right + 2.2, height + 0.9), layout="constrained")
    for name, (group, left, width) in places.items():
        values = scores[name].to_numpy(dtype=float)
        shade = _rescaled(values)
        for row, (value, share) in enumerate(zip(values, shade, strict=True)):
            y = -ROW * (row + 0.5)
            colour = plt.get_cmap(COLOURS[group])(0.15 + 0.65 * share)
            ink = "white" if share > 0.6 else "0.15"
            if group == "aggregate":
                length = (width - 0.12) * min(max(value, 0), 1)
                ax.add_patch(Rectangle((left, y - 0.36 * ROW), length, 0.72 * ROW, color=colour))
                ax.text(left + 0.06, y, f"{value:.2f}", va="center", fontsize=9, color=ink)
            else:
                ax.scatter(left + width / 2, y, s=430, color=colour)
                ax.text(left + width / 2, y, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
        ax.text(left + width / 2, 0.12, name.replace(" ", "\n", 1), ha="center", va="bottom", fontsize=8)
    for row in range(1, len(scores)):
        ax.axhline(-ROW * row, color="0.9", linewidth=0.8, zorder=0)
    ax.axhline(0, color="0.3", linewidth=1)
    for row, name in enumerate(scores.index):
        ax.text(-0.1, -ROW * (row + 0.5), name, ha="right", va="center", fontsize=9)
    for group in GROUPS:
        of_group = [(left, width) for where, left, width in places.values() if where == group]
        if of_group:
            middle = (of_group[0][0] + sum(of_group[-1])) / 2
            ax.text(middle, 1.55 * ROW, group, ha="center", va="bottom", fontsize=9, fontweight="bold")
    ax.set_xlim(0, right)
    ax.set_ylim(-ROW * len(scores), 2.1 * ROW)
    ax.axis("off")
    return shown(ax, show, save)


def _scores(adata: AnnData | pd.DataFrame, key: str) -> pd.DataFrame:
    """The table, best first."""
    found = adata if not hasattr(adata, "uns") else adata.uns.get(key, {}).get("scores")
    if found is None or not {*BIO, *BATCH, *AGGREGATES}.intersection(found):
        where = f"adata.uns has no {key!r}" if found is None else "The table has none of the scores"
        msg = f"{where}. Run sf.tl.benchmark(adata, models, label_key=...) first."
        raise ValueError(msg)
    return found


def _rescaled(values: np.ndarray) -> np.ndarray:
    """From 0 for the worst to 1 for the best; 1 where all are equal."""
    low, high = np.nanmin(values), np.nanmax(values)
    return np.ones_like(values) if high - low < 1e-9 else (values - low) / (high - low)
