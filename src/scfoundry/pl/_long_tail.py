"""How well labels are found, from the largest to the smallest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import quoted
from scfoundry._keys import Keys
from scfoundry.metrics import annotation_by_class
from scfoundry.pl._drawing import require_columns, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["long_tail"]

MARKERS = "oDs^vP"
HEIGHT = 0.26  # of a label, in inches


def long_tail(
    adata: AnnData,
    truth_key: str,
    keys: str | Sequence[str] | Mapping[str, str] = Keys.ANNOTATION,
    *,
    n_cells: Mapping[str, int] | pd.Series | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw the F1 of every label beside the number of cells it was learned from, of one or several predictions.

    Labels stand from the largest to the smallest, with a grey bar each as long as the log of its size. Broken lines are
    the means over labels, macro F1.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.annotate`, with different ``key_added`` to compare losses or models.
    truth_key
        Column of ``obs`` with the true labels; cells without one are left out.
    keys
        Columns of ``obs`` with predicted labels, or what they are to be called -> columns.
    n_cells
        Cells that each label was learned from; as `sf.tl.annotate` recorded for the first of the keys if `None`.
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
        If a column does not exist, no sizes were recorded, or no label that has one is true of a cell.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.annotate(adata, reference, labels_key="cell_type")  # doctest: +SKIP
    >>> sf.tl.annotate(adata, reference, labels_key="cell_type", loss="ginf", key_added="ginf")  # doctest: +SKIP
    >>> sf.pl.long_tail(adata, "cell_type", ["annotation", "ginf"])  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt

    listed_keys = [keys] if isinstance(keys, str) else keys
    named = dict(keys) if isinstance(keys, Mapping) else {key: key for key in listed_keys}
    sizes = _sizes(adata, truth_key, named, n_cells)
    truth = adata.obs[truth_key]
    scores = {name: annotation_by_class(truth, adata.obs[key])["f1"] for name, key in named.items()}
    f1 = pd.DataFrame({name: of_class.reindex(sizes.index) for name, of_class in scores.items()})

    if ax is None:
        _, ax = plt.subplots(figsize=(4.8, 1.6 + HEIGHT * len(f1)), layout="constrained")
    places = np.arange(len(f1))
    behind = ax.twiny()
    behind.barh(places, sizes, color="0.92", height=0.8)
    behind.set_xscale("log")
    behind.set_xlim(0.7, 1.5 * sizes.max())
    behind.set_xlabel("cells learned from (bars)", color="0.45")
    behind.tick_params(colors="0.45")
    ax.set_zorder(behind.get_zorder() + 1)
    ax.patch.set_visible(False)

    ax.hlines(places, f1.min(axis=1), f1.max(axis=1), color="0.6", linewidth=1.2, zorder=1)
    for number, name in enumerate(f1):
        look: dict[str, Any] = {"color": f"C{number}", "markeredgecolor": "white", "zorder": 3}
        macro = scores[name].mean()
        label = f"{name}, mean {macro:.2f}"
        # Smaller and smaller, so that none hides another that is as good.
        look["markersize"] = max(8.5 - 2.5 * number, 3.5)
        ax.plot(f1[name], places, MARKERS[number % len(MARKERS)], label=label, **look)
        ax.axvline(macro, color=f"C{number}", linewidth=1, linestyle="--", zorder=0)
    ax.set_yticks(places, [f"{name}  ({size:,})" for name, size in sizes.items()])
    ax.set_ylim(len(f1) - 0.4, -0.6)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xlabel("F1")
    for axes in (ax, behind):
        axes.spines[["right"]].set_visible(False)
    # Below the name of the axis, however high the axes are.
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.55 / (HEIGHT * len(f1))))
    return shown(ax, show, save)


def _sizes(
    adata: AnnData, truth_key: str, keys: Mapping[str, str], n_cells: Mapping[str, int] | pd.Series | None
) -> pd.Series:
    """Cells that every label was learned from, of labels that some cell has, largest first."""
    require_columns(adata, truth_key, *keys.values(), run="sf.tl.annotate")
    if n_cells is None:
        first = next(iter(keys.values()))
        recorded = adata.uns.get(first, {}).get(Keys.REFERENCE)
        if recorded is None:
            msg = (
                f"adata.uns has no sizes of labels for {first!r}, as sf.tl.annotate records them. Pass them: "
                "n_cells=reference.obs[labels_key].value_counts()."
            )
            raise ValueError(msg)
        n_cells = recorded["n_cells"]
    sizes = pd.Series(n_cells)
    present = set(adata.obs[truth_key].dropna())
    sizes = sizes[[label in present and size > 0 for label, size in sizes.items()]]
    if not len(sizes):
        msg = f"None of the labels that were learned is one of obs[{truth_key!r}]: {quoted(present, 5)}."
        raise ValueError(msg)
    return sizes.astype(int).sort_values(ascending=False, kind="stable")
