"""Whether probabilities are right as often as they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry._compat import obs_column
from scfoundry._keys import Keys
from scfoundry.metrics import calibration as error_of
from scfoundry.pl._drawing import require_columns, shown

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = ["calibration"]


def calibration(
    adata: AnnData,
    truth_key: str,
    key: str = Keys.ZERO_SHOT,
    *,
    n_bins: int = 10,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw how often names are right beside the probability that they were given: a reliability diagram.

    Points on the diagonal are honest; below it the model is surer than it should be. Bars in grey are the share of
    cells in every bin; small points rest on few cells. The title gives the expected calibration error
    :cite:p:`guo2017calibration`. Cells that are ``"unknown"`` or have no true label are left out.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.zero_shot_annotate` or `sf.tl.annotate`.
    truth_key
        Column of ``obs`` with true labels, spelled as the given ones.
    key
        Name of the result.
    n_bins
        Bins of equal width from 0 to 1.
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
        If a column does not exist, or no cell has both labels.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.annotate(adata, reference, labels_key="cell_type")  # doctest: +SKIP
    >>> sf.pl.calibration(adata, "cell_type", "annotation")  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt

    require_columns(adata, truth_key, key, Keys.score(key), run="sf.tl.zero_shot_annotate(adata, texts)")
    truth, given = obs_column(adata, truth_key).astype(object), obs_column(adata, key).astype(object)
    counted = (truth.notna() & given.notna() & (given != Keys.UNKNOWN)).to_numpy()
    if not counted.any():
        msg = f"No cell has labels in both adata.obs[{truth_key!r}] and adata.obs[{key!r}]. Pass other columns."
        raise ValueError(msg)
    sure = np.asarray(obs_column(adata, Keys.score(key)), dtype=float)[counted]
    right = (truth[counted].map(str) == given[counted].map(str)).to_numpy()
    error = error_of(sure, right, n_bins=n_bins)
    # A bin holds its upper edge, as those of the error do.
    bins = np.clip(np.ceil(sure * n_bins) - 1, 0, n_bins - 1).astype(int)
    sizes = np.bincount(bins, minlength=n_bins)
    filled = sizes > 0
    mean_sure, accuracy = (
        np.bincount(bins, values, minlength=n_bins)[filled] / sizes[filled] for values in (sure, right)
    )
    if ax is None:
        _, ax = plt.subplots(figsize=(4.2, 4), layout="constrained")
    ax.bar((np.arange(n_bins) + 0.5) / n_bins, sizes / sizes.sum(), width=0.9 / n_bins, color="0.88", zorder=0)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", zorder=1)
    ax.plot(mean_sure, accuracy, color="C0", linewidth=1, alpha=0.6, zorder=2)
    ax.scatter(mean_sure, accuracy, s=12 + 120 * np.sqrt(sizes[filled] / sizes.sum()), color="C0", zorder=3)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability of the name", ylabel="share that is right")
    ax.set_title(f"{key}: calibration error {error['ece']:.3f}, {len(sure):,} cells", fontsize=10)
    ax.text(0.02, 0.98, "bars: share of cells", color="0.5", fontsize=8, va="top")
    ax.spines[["top", "right"]].set_visible(False)
    return shown(ax, show, save)
