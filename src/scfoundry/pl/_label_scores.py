"""Probabilities of labels, group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry._compat import obs_column
from scfoundry._keys import Keys
from scfoundry.pl._drawing import heatmap, require_columns, scores_of, shown

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["label_scores"]


def label_scores(
    adata: AnnData,
    groupby: str,
    key: str = Keys.ZERO_SHOT,
    *,
    cmap: str = "Purples",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw the mean probability of every label in groups of cells, such as clusters.

    A row with one dark field is a group of one type; two fields of half the colour are two types in a group, or two
    labels that the model cannot tell apart.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.zero_shot_annotate` or `sf.tl.annotate`.
    groupby
        Column of ``obs`` with groups; cells without one are left out.
    key
        Name of the result, whose probabilities stand in ``obsm["<key>_scores"]``.
    cmap
        Colours, from 0 to 1.
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
        If there is no such result or column.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.zero_shot_annotate(adata, ["B cell", "T cell", "NK", "monocyte", "dendritic cell"])
    >>> sf.pl.label_scores(adata, "bulk_labels")
    """
    scores = scores_of(adata, key)
    require_columns(adata, groupby, run="sc.tl.leiden(adata)")
    groups = obs_column(adata, groupby).astype(object)
    means = scores.groupby(groups.to_numpy()).mean()
    # Groups in the order of their best labels, which lies them along the diagonal.
    best = means.to_numpy().argmax(axis=1)
    means = means.iloc[np.lexsort((-means.to_numpy().max(axis=1), best))]
    sizes = groups.value_counts()
    ax = heatmap(
        means.set_axis([f"{name}  ({sizes[name]:,})" for name in means.index]),
        ax=ax,
        label="mean probability",
        cmap=cmap,
    )
    ax.set(xlabel="label", ylabel=groupby)
    return shown(ax, show, save)
