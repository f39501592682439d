"""Which labels are taken for which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scfoundry._compat import obs_column
from scfoundry._keys import Keys
from scfoundry.pl._drawing import heatmap, require_columns, shown

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["confusion"]


def confusion(
    adata: AnnData,
    truth_key: str,
    key: str = Keys.ANNOTATION,
    *,
    cmap: str = "Blues",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw which labels the cells of every true label got: a row per true label, in shares of its cells.

    Labels that occur on both sides stand in the same order, so that what is right lies on the diagonal; then come those
    that are only given, ``"unknown"`` at the end. A number behind a true label counts its cells.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.annotate` or `sf.tl.zero_shot_annotate`.
    truth_key
        Column of ``obs`` with true labels; cells without one are left out.
    key
        Column of ``obs`` with given labels.
    cmap
        Colours, from none to all cells.
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
        If a column does not exist, or no cell has a true label.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.zero_shot_annotate(adata, ["B cell", "T cell", "NK", "monocyte", "dendritic cell"])
    >>> sf.pl.confusion(adata, "bulk_labels", "zero_shot")
    """
    require_columns(adata, truth_key, key, run="sf.tl.annotate(adata, reference, labels_key=...)")
    truth, given = obs_column(adata, truth_key).astype(object), obs_column(adata, key).astype(object)
    labelled = truth.notna().to_numpy()
    if not labelled.any():
        msg = f"No cell has a label in adata.obs[{truth_key!r}]. Pass another column as truth_key."
        raise ValueError(msg)
    counts = pd.crosstab(truth[labelled].map(str), given[labelled].fillna("none").map(str))
    shared = [name for name in counts.index if name in counts.columns]
    others = sorted(set(counts.columns) - set(shared), key=lambda name: (name == Keys.UNKNOWN, name))
    rows = shared + [name for name in counts.index if name not in shared]
    counts = counts.loc[rows, shared + others]
    sizes = counts.sum(axis=1)
    shares = counts.div(sizes, axis=0).set_axis([f"{name}  ({size:,})" for name, size in sizes.items()])
    ax = heatmap(shares, ax=ax, label="share of the true label", cmap=cmap)
    ax.set(xlabel=f"given ({key})", ylabel=f"true ({truth_key})")
    return shown(ax, show, save)
