"""Cells and the texts that named them, in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry._compat import obs_column
from scfoundry._keys import Keys
from scfoundry.pl._drawing import coordinates, require_columns, scatter, scores_of, shown

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["cells_and_texts"]

# A text stands among so many of the cells that are most probably it.
N_CELLS = 30
# Texts would hide each other within such shares of the picture, and not so many points above.
NEAR, LINE = np.array([0.2, 0.05]), 17


def cells_and_texts(
    adata: AnnData,
    key: str = Keys.ZERO_SHOT,
    *,
    basis: str = "umap",
    size: float | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw cells by the name they got, and every text where the cells are that it fits best.

    A text stands on the middle one of the cells that it names, or of the 30 among them of its highest probability. One
    in brackets was offered, but is the name of no cell, and stands among those that come next to it; cells in grey are
    ``"unknown"``.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.zero_shot_annotate` or `sf.tl.annotate`, with coordinates in ``obsm``.
    key
        Name of the result: ``obs["<key>"]`` has names, ``obsm["<key>_scores"]`` probabilities.
    basis
        Coordinates, ``obsm["X_<basis>"]`` or ``obsm["<basis>"]``, of which the first two are drawn.
    size
        Area of a point in square points; if `None`, by the number of cells, as scanpy does.
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
        If there are no such result or coordinates.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.zero_shot_annotate(adata, ["B cell", "T cell", "NK", "monocyte", "erythrocyte"])
    >>> sf.pl.cells_and_texts(adata)
    """
    require_columns(adata, key, run="sf.tl.zero_shot_annotate(adata, texts)")
    scores = scores_of(adata, key)
    places = coordinates(adata, basis)
    named = obs_column(adata, key).astype(object).to_numpy()
    ax = scatter(places, None, ax=ax, size=size, label=basis)
    # Most frequent first, so that the small ones lie on top.
    order = sorted(scores.columns, key=lambda name: -int((named == name).sum()))
    colors = _colors(len(order))
    written: list[NDArray[np.floating]] = []
    for name, color in zip(order, colors, strict=True):
        own = named == name
        if own.any():
            scatter(places[own], color, ax=ax, size=size, n_cells=len(places))
        among = own if own.any() else np.ones_like(own)
        place = _middle(places[among], scores[name].to_numpy()[among])
        # Texts at nearly one place stand above each other.
        n_below = sum(bool((np.abs(place - other) < NEAR * np.ptp(places, axis=0)).all()) for other in written)
        written.append(place)
        ax.annotate(
            str(name) if own.any() else f"({name})",
            tuple(place),
            xytext=(0, LINE * n_below),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            fontweight="bold" if own.any() else "normal",
            color="black" if own.any() else "0.35",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": color, "alpha": 0.85},
        )
    return shown(ax, show, save)


def _middle(places: NDArray[np.floating], probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Place of the medoid of the cells of the highest probability, which is never between groups."""
    best = places[np.argsort(-probabilities, kind="stable")[:N_CELLS]]
    distances = np.linalg.norm(best[:, None] - best[None], axis=2).sum(axis=1)
    return best[distances.argmin()]


def _colors(n: int) -> list[Any]:
    import matplotlib as mpl

    named = mpl.colormaps["tab20" if n > 10 else "tab10"]
    return [named(i % named.N) for i in range(n)]
