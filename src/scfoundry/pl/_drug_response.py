"""Measured against predicted responses, and how far each drug can be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._keys import Keys
from scfoundry.pl._drawing import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["drug_response"]

MOST_NAMED = 40


def drug_response(
    adata: AnnData,
    measured: pd.DataFrame | str,
    *,
    drugs: Sequence[str] | None = None,
    key: str = Keys.DRUG_RESPONSE,
    axes: Sequence[Axes] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Sequence[Axes] | NDArray | None:
    """Draw measured against predicted responses, and the correlation within every drug, ranked.

    On the left all pairs, drugs differ in level, which makes it look good. On the right what counts: the correlation
    over lines within each drug, of the pairs in ``measured`` (dots), beside what inner cross-validation expects
    (crosses).

    Parameters
    ----------
    adata
        Lines x genes after `sf.tl.drug_response`.
    measured
        Lines x drugs to compare with, NaN where not measured, or the key of such a table in ``obsm``. Pass the pairs
        that were hidden: ``response.where(split.test)``.
    drugs
        Drugs to draw, all that were predicted and measured if `None`.
    key
        Slot of ``obsm`` and ``uns`` that holds the result.
    axes
        The two where to draw; a new figure if `None`.
    show
        Show the figure and return nothing.
    save
        File to write the figure to, of any kind that matplotlib knows.

    Returns
    -------
    The two axes, unless ``show``.

    Raises
    ------
    ValueError
        If there is no such result, a drug was not predicted, or no pair is both measured and predicted.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.pl.drug_response(adata, response.where(split.test))  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt

    if key not in adata.obsm or Keys.DRUGS not in adata.uns.get(key, {}):
        msg = (
            f"adata.obsm has no result {key!r} of sf.tl.drug_response. Run it: sf.tl.drug_response(adata, "
            "response=...)."
        )
        raise ValueError(msg)
    predicted = adata.obsm[key]
    table = adata.obsm[measured] if isinstance(measured, str) else measured
    names = [drug for drug in predicted.columns if drug in table.columns] if drugs is None else list(drugs)
    if lacking := [drug for drug in names if drug not in predicted.columns or drug not in table.columns]:
        msg = f"{lacking[0]!r} was not predicted or not measured; predicted: {list(predicted.columns[:5])}, ..."
        raise ValueError(msg)
    truth = table.reindex(adata.obs_names)[names]
    guess = predicted[names]
    both = truth.notna().to_numpy() & guess.notna().to_numpy()
    if not both.any():
        msg = "No pair is both measured and predicted. Name lines of measured as adata.obs_names."
        raise ValueError(msg)
    x, y = truth.to_numpy(dtype=float)[both], guess.to_numpy(dtype=float)[both]
    within = _within(truth, guess).sort_values(ascending=False)

    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", width_ratios=[1, 1.2])
    left, right = axes
    left.scatter(x, y, s=4, alpha=min(1.0, 0.1 + 200 / len(x)), color="0.25", linewidths=0, rasterized=True)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    left.plot(ends, ends, color="C1", linewidth=1)
    overall = float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")
    left.set(xlabel="measured", ylabel="predicted", title=f"all {len(x):,} pairs: r = {overall:.2f}")
    places = np.arange(len(within))
    expected = adata.uns[key][Keys.DRUGS]["expected_pearson"].reindex(within.index)
    right.axhline(0, color="0.7", linewidth=0.8)
    right.plot(places, expected, "x", color="C1", markersize=4, label="expected")
    right.plot(places, within, "o", color="0.25", markersize=3.5, label="measured")
    if len(within) <= MOST_NAMED:
        right.set_xticks(places, within.index, rotation=90, fontsize=7)
    else:
        right.set_xlabel("drugs, ranked")
    right.set(ylabel="correlation over lines", title=f"within {len(within)} drugs: mean r = {within.mean():.2f}")
    right.legend(frameon=False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return shown(axes, show, save)


def _within(truth: pd.DataFrame, guess: pd.DataFrame) -> pd.Series:
    """Correlation over lines, drug by drug, of those measured in three lines at least; 0 of a constant prediction."""
    found = {}
    for drug in truth:
        here = (truth[drug].notna() & guess[drug].notna()).to_numpy()
        x, y = truth[drug].to_numpy(dtype=float)[here], guess[drug].to_numpy(dtype=float)[here]
        if len(x) >= 3 and np.ptp(x) > 0:
            found[drug] = float(np.corrcoef(x, y)[0, 1]) if np.ptp(y) > 0 else 0.0
    return pd.Series(found, dtype=float)
