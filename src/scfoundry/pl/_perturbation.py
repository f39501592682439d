"""Predicted next to measured change of the genes that a perturbation changes most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry._arguments import quoted
from scfoundry._keys import Keys
from scfoundry.pl._drawing import shown

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["perturbation"]

LEAST_CELLS = 2
INTERVAL = 1.96  # standard errors on either side of a mean that hold 95 % of its distribution


def perturbation(
    adata: AnnData,
    perturbation: str,
    *,
    group: str | None = None,
    key: str = Keys.PERTURBATION,
    n_genes: int = 20,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw the predicted change of genes, and the measured one where there are cells with the perturbation.

    Genes are those with the largest change, measured if it can be, from top to bottom. Bars are 95 % intervals of the
    measured difference of means. The noise of the controls is part of both, so that the two agree more than they
    should: how good a prediction is, `sf.metrics.perturbation` says, given controls that it has not seen.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.predict_perturbation`.
    perturbation
        One of the perturbations that were predicted; the order of a combination says nothing.
    group
        One of the groups that were predicted for; needed where there are several.
    key
        Slot of ``uns`` that holds the result.
    n_genes
        Number of genes.
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
        If there is no such result, or it has not the perturbation or group.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.pl.perturbation(adata, "KLF1+SET")  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt

    if Keys.PROFILES not in adata.uns.get(key, {}):
        msg = (
            f"adata.uns has no result {key!r} of sf.tl.predict_perturbation. Run it first: "
            "sf.tl.predict_perturbation(adata, perturbation_key=..., control=..., perturbations=[...])."
        )
        raise ValueError(msg)
    params = adata.uns[key][Keys.PARAMS]
    row, group = _row(adata.uns[key][Keys.PROFILES], params, perturbation, group)
    predicted = row.layers["change"].ravel().astype(np.float64)
    # Of an AnnData that has lost genes since, totals and with them the scale would be others.
    same_genes = adata.var_names.equals(row.var_names)
    found = _measured(adata, params, perturbation, group) if same_genes else None
    largest = np.abs(predicted if found is None else found[0])
    top = np.argsort(-largest, kind="stable")[:n_genes]

    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 0.8 + 0.22 * len(top)), layout="constrained")
    places = np.arange(len(top))
    ax.axvline(0, color="0.7", linewidth=0.8)
    title = f"{perturbation}, {group}" if "group_key" in params else perturbation
    if found is not None:
        measured, error = found
        ax.hlines(places, measured[top], predicted[top], color="0.8", linewidth=1.2, zorder=1)
        look: dict[str, Any] = {"fmt": "o", "color": "0.25", "markersize": 4, "label": "measured", "zorder": 2}
        ax.errorbar(measured[top], places, xerr=INTERVAL * error[top], **look)
    ax.plot(predicted[top], places, "D", color="C1", markersize=5, label="predicted", zorder=3)
    ax.set_yticks(places, row.var_names[top])
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="change of log1p counts per 10,000", title=title)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return shown(ax, show, save)


def _row(profiles: AnnData, params: dict[str, Any], perturbation: str, group: str | None) -> tuple[AnnData, str]:
    """The condition as one row, and its group."""
    from scfoundry.data.perturbations import members_of

    obs = profiles.obs
    names, groups = obs["perturbation"].astype(str), obs["group"].astype(str)
    members = members_of([*names.unique(), perturbation], control=params["control"], sep=params.get("sep"))
    same = np.array([members[name] == members[perturbation] for name in names])
    if not same.any():
        msg = f"{perturbation!r} was not predicted; there are {quoted(names.unique())}."
        raise ValueError(msg)
    present = groups.unique().tolist()
    if group not in present and (group is not None or len(present) > 1):
        msg = (
            f"group must be one of {quoted(present)}, for which it was predicted; got {group!r}. "
            "Pass one of them: group=..."
        )
        raise ValueError(msg)
    chosen = present[0] if group is None else group
    # Both orders of a pair may have been asked for; they are one prediction.
    return profiles[np.flatnonzero(same & (groups == chosen).to_numpy())[:1]], chosen


def _measured(adata: AnnData, params: dict[str, Any], name: str, group: str) -> tuple[Array, Array] | None:
    """Measured change of every gene and its standard error; `None` without at least two perturbed cells."""
    from scfoundry.data.matrix.checks import inspect_matrix, to_linear
    from scfoundry.data.matrix.loaders import row_blocks
    from scfoundry.data.perturbations import group_labels, members_of, perturbation_labels
    from scfoundry.tasks.perturbation.measured import profiles

    control, sep, layer = params["control"], params.get("sep"), params.get("layer")
    labels = perturbation_labels(adata, params["perturbation_key"], control=control, sep=sep)
    members = members_of([*labels.dropna().unique(), name], control=control, sep=sep)
    got_it = [isinstance(label, str) and members[label] == members[name] for label in labels]
    here = (group_labels(adata, params.get("group_key")) == group).to_numpy()
    codes = np.full(adata.n_obs, -1)
    codes[(labels == control).to_numpy() & here] = 0
    codes[np.array(got_it) & here] = 1
    if (codes == 1).sum() < LEAST_CELLS or (codes == 0).sum() < LEAST_CELLS:
        return None
    state = inspect_matrix(adata, layer=layer).state
    rows = np.flatnonzero(codes >= 0)
    blocks = ((cells, to_linear(block, state)) for cells, block in row_blocks(adata, layer=layer, rows=rows))
    n_cells, sums, squares = profiles(blocks, codes, 2, adata.n_vars)
    means = sums / n_cells[:, None]
    variances = (squares / n_cells[:, None] - means**2).clip(min=0) / (n_cells[:, None] - 1)
    return means[1] - means[0], np.sqrt(variances.sum(0))
