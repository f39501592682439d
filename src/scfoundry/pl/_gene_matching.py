"""How the genes of a data set were found in a model's vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry._keys import Keys
from scfoundry.pl._drawing import shown

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["gene_matching"]


def gene_matching(
    adata: AnnData,
    key: str = "cellplm",
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw the routes by which genes were matched, and how many were not.

    A long grey bar tells that a model saw little of the data: look at the names of the genes before trusting the
    embedding.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.embed`.
    key
        Slot of ``uns`` that it wrote.
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
        If ``uns`` has no such result.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.embed(adata)
    >>> sf.pl.gene_matching(adata)
    """
    import matplotlib.pyplot as plt

    if Keys.PROVENANCE not in adata.uns.get(key, {}):
        msg = f"adata.uns has no result {key!r} of sf.tl.embed. Run it first: sf.tl.embed(adata)."
        raise ValueError(msg)
    report = adata.uns[key][Keys.PROVENANCE]["genes"]
    names = [*report["routes"], "not found"]
    counts = np.array([*report["routes"].values(), report["n_dropped"]], dtype=int)

    if ax is None:
        _, ax = plt.subplots(figsize=(5, 0.5 + 0.35 * len(names)), layout="constrained")
    bars = ax.barh(names, counts, color=["C0"] * len(report["routes"]) + ["0.7"])
    ax.bar_label(bars, labels=[f"{n:,}" for n in counts], padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="genes of the data", title=f"{report['n_kept']:,} of {report['n_input']:,} genes known to {key}")
    return shown(ax, show, save)
