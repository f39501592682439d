"""Where the cells are that a text found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry._arguments import quoted
from scfoundry.pl._drawing import coordinates, scatter, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["retrieval"]

COLUMNS = ("query", "obs_name", "score")


def retrieval(
    adata: AnnData,
    hits: pd.DataFrame,
    *,
    basis: str = "umap",
    size: float | None = None,
    cmap: str = "viridis",
    axes: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> NDArray[np.object_] | None:
    """Draw the cells that every text found among all cells, coloured by their score.

    Parameters
    ----------
    adata
        The cells that were searched, with coordinates in ``obsm``.
    hits
        What `sf.tl.retrieve` returned, with ``find="cells"``.
    basis
        Coordinates, ``obsm["X_<basis>"]`` or ``obsm["<basis>"]``, of which the first two are drawn.
    size
        Area of a point in square points; if `None`, by the number of cells, as scanpy does.
    cmap
        Colours, from the lowest to the highest score of a text.
    axes
        Where to draw, one per text; a new figure if `None`.
    show
        Show the figure and return nothing.
    save
        File to write the figure to, of any kind that matplotlib knows.

    Returns
    -------
    The axes, one per text, unless ``show``.

    Raises
    ------
    ValueError
        If there are no such coordinates, no hits, cells that ``adata`` lacks, or too few axes.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> hits = sf.tl.retrieve(adata, ["B cell", "a cell that presents antigen"], k=60)
    >>> sf.pl.retrieval(adata, hits)
    """
    import matplotlib.pyplot as plt

    if missing := [name for name in COLUMNS if name not in hits]:
        msg = f"hits has no column {quoted(missing)}. Pass what sf.tl.retrieve(adata, texts) returned."
        raise ValueError(msg)
    queries = hits["query"].unique()
    rows = adata.obs_names.get_indexer(hits["obs_name"])
    if not len(queries) or (rows < 0).any():
        lacking = "are empty" if not len(queries) else f"name {int((rows < 0).sum()):,} cells that adata lacks"
        msg = f"hits {lacking}. Pass the cells that were searched: hits = sf.tl.retrieve(adata, texts)."
        raise ValueError(msg)
    places = coordinates(adata, basis)
    if axes is None:
        axes = plt.subplots(1, len(queries), figsize=(4.2 * len(queries), 3.8), layout="constrained", squeeze=False)[
            1
        ].tolist()
    drawn = np.ravel(np.asarray(axes, dtype=object))
    if len(drawn) < len(queries):
        msg = f"axes are {len(drawn)}, but hits are of {len(queries)} texts. Pass one per text, or axes=None."
        raise ValueError(msg)
    drawn = drawn[: len(queries)]
    for query, ax in zip(queries, drawn, strict=True):
        found = np.flatnonzero(hits["query"] == query)
        # The best ones on top.
        found = found[np.argsort(hits["score"].to_numpy()[found], kind="stable")]
        scatter(places, None, ax=ax, size=size, label=basis)
        scores = hits["score"].to_numpy()[found]
        points = scatter(places[rows[found]], scores, ax=ax, size=size, cmap=cmap, large=True).collections[-1]
        ax.figure.colorbar(points, ax=ax, label="score", shrink=0.7)
        ax.set_title(f"{query} ({len(found):,} cells)", fontsize=10)
    return shown(drawn, show, save)
