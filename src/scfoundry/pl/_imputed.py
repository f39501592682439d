"""Imputed next to measured expression, where the spots lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry._arguments import quoted, require_column
from scfoundry._keys import Keys
from scfoundry.pl._drawing import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["imputed"]

CALLER = "sf.pl.imputed"
# Free space between sections, as a share of the largest.
GAP = 0.15
MOST_PANELS_IN_A_ROW = 4
PANEL_AREA = 9.0  # square inches
# The few richest spots would leave no colours to the others.
SHOWN = (0.01, 0.99)


def imputed(
    adata: AnnData,
    genes: str | Sequence[str],
    *,
    truth: AnnData | None = None,
    key: str = Keys.IMPUTED,
    spatial_key: str | None = None,
    context: str | Sequence[str] | None = None,
    context_key: str | None = None,
    layer: str | None = None,
    size: float | None = None,
    cmap: str = "viridis",
    ncols: int | None = None,
    axes: Axes | Sequence[Axes] | NDArray[Any] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> NDArray[Any] | None:
    """Draw imputed genes in the tissue, next to what was measured of them if that is known.

    All panels show log1p of counts, each in colours of its own from the 1st to the 99th percentile, since counts of
    single spots scatter and an expectation does not: compare where a gene is high, not the numbers. The title gives the
    Pearson correlation with the measured values over all spots, drawn or not, and the one that was expected.

    Parameters
    ----------
    adata
        Spots x genes after `sf.tl.impute_spatial`.
    genes
        One or several of the imputed genes.
    truth
        The same spots with counts of genes that were held out; `adata` itself, where it has them, if `None`.
    key
        Slot of ``obsm`` and ``uns`` that holds the result.
    spatial_key
        Key of ``adata.obsm`` with coordinates; the one used for imputation if `None`.
    context
        Section or sections to draw, side by side; all if `None`.
    context_key
        Column of ``adata.obs`` that names the section; the one used for imputation if `None`.
    layer
        Layer of `truth` with the counts, ``X`` if `None`.
    size
        Diameter of the dots in units of the coordinates; dots that nearly touch if `None`.
    cmap
        Colours, from low to high.
    ncols
        Genes beside each other; as many as make four panels if `None`.
    axes
        Where to draw: one for every gene, or two (measured, imputed) if any of the genes is measured; a new figure if
        `None`.
    show
        Show the figure and return nothing.
    save
        File to write the figure to, of any kind that matplotlib knows.

    Returns
    -------
    The axes, (n_genes, 2), or (n_genes, 1) if none of the genes is measured; nothing if ``show``.

    Raises
    ------
    ValueError
        If there is no such result, it lacks a gene, coordinates or a section do not exist, or `truth` lacks spots or a
        gene, or holds neither counts nor log1p-normalised values.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.pl.imputed(spots, ["CD3E", "MS4A1"])  # doctest: +SKIP
    >>> sf.pl.imputed(spots, "CD3E", truth=all_genes, context="section 1")  # doctest: +SKIP
    """
    names = [genes] if isinstance(genes, str) else list(genes)
    result, params, expected = _result(adata, key, names)
    rows, labels = _sections(adata, params.get("context_key") if context_key is None else context_key, context)
    place = _placed(_coordinates(adata, spatial_key or params.get("spatial_key", Keys.SPATIAL))[rows], labels)
    measured = _measured(adata, truth, names, layer=params.get("layer") if truth is None and layer is None else layer)
    guesses = np.log1p(result[names].to_numpy(dtype=np.float64))

    per_gene, n_sections = 2 if measured else 1, len(np.unique(labels))
    panels = _panels(len(names), per_gene, np.ptp(place, axis=0), n_sections, ncols=ncols, axes=axes)
    diameter = _spacing(place) if size is None else size
    for gene, guess, (*left, right) in zip(names, guesses.T, panels, strict=True):
        reached = []
        if gene in measured:
            values = measured[gene]
            detected = f"detected in {np.mean(values > 0):.0%} of spots"
            _draw(left[0], place, values[rows], diameter, cmap, f"{gene}, measured\n{detected}")
            if np.ptp(values) and np.ptp(guess):
                reached.append(f"r = {np.corrcoef(values, guess)[0, 1]:.2f}")
        elif left:
            left[0].set_axis_off()
        if np.isfinite(expected[gene]):
            reached.append(f"expected {'' if reached else 'r = '}{expected[gene]:.2f}")
        _draw(right, place, guess[rows], diameter, cmap, f"{gene}, imputed\n{', '.join(reached)}")
        for ax in [*left, right]:
            _name_sections(ax, place, labels)
    return shown(panels, show, save)


def _result(adata: AnnData, key: str, genes: list[str]) -> tuple[pd.DataFrame, dict[str, Any], pd.Series]:
    """Imputed counts, the arguments of the call, and the correlation to expect of every gene."""
    if Keys.CONFIDENCE not in adata.uns.get(key, {}) or key not in adata.obsm:
        msg = (
            f"adata has no result {key!r} of sf.tl.impute_spatial. Run it first: "
            "sf.tl.impute_spatial(adata, reference, genes=[...])."
        )
        raise ValueError(msg)
    result = adata.obsm[key]
    if not genes:
        msg = f"genes is empty. Name some of the imputed genes: {CALLER}(adata, {result.columns[0]!r})."
        raise ValueError(msg)
    if absent := [gene for gene in genes if gene not in result.columns]:
        msg = (
            f"{quoted(absent, 5)} {'was' if len(absent) == 1 else 'were'} not imputed; adata.obsm[{key!r}] has "
            f"{result.shape[1]:,} genes, for example {quoted(result.columns[:3])}. Impute them, too: "
            f"sf.tl.impute_spatial(adata, reference, genes={genes!r})."
        )
        raise ValueError(msg)
    return result, adata.uns[key][Keys.PARAMS], adata.uns[key][Keys.CONFIDENCE]["pearson"]


def _sections(
    adata: AnnData, context_key: str | None, context: str | Sequence[str] | None
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Spots to draw, and the section of each."""
    if context_key is None:
        if context is not None:
            msg = f"There is one section only, so that context={context!r} cannot be chosen. Pass context_key=..., too."
            raise ValueError(msg)
        return np.arange(adata.n_obs), np.full(adata.n_obs, "")
    require_column(adata.obs, context_key, fix="context_key")
    labels = adata.obs[context_key].astype(str).to_numpy().astype(str)
    wanted = list(dict.fromkeys(labels)) if context is None else [context] if isinstance(context, str) else context
    unknown = [name for name in wanted if name not in labels]
    if unknown or not len(wanted):
        msg = f"context must be among {quoted(np.unique(labels), 20)}; got {context!r}. All: context=None."
        raise ValueError(msg)
    rows = np.concatenate([np.flatnonzero(labels == name) for name in wanted])
    return rows, labels[rows]


def _coordinates(adata: AnnData, spatial_key: str) -> Array:
    """Where the spots lie, y downwards as in images."""
    if spatial_key not in adata.obsm or np.ndim(adata.obsm[spatial_key]) != 2:
        msg = (
            f"adata.obsm has no coordinates {spatial_key!r}; its keys: {quoted(adata.obsm)}. Pass spatial_key=... "
            "with an array of two columns, x and y."
        )
        raise ValueError(msg)
    return np.asarray(adata.obsm[spatial_key], dtype=np.float64)[:, :2]


def _placed(xy: Array, labels: NDArray[np.str_]) -> Array:
    """The sections in rows and columns, each from its own corner."""
    sections = list(dict.fromkeys(labels))
    n_columns = math.ceil(math.sqrt(len(sections)))
    corners = {name: xy[labels == name].min(0) for name in sections}
    extents = np.array([np.ptp(xy[labels == name], axis=0) for name in sections])
    step = extents.max(0) + GAP * max(extents.max(), 1e-12)
    moved = np.empty_like(xy)
    for i, name in enumerate(sections):
        moved[labels == name] = xy[labels == name] - corners[name] + np.array([i % n_columns, i // n_columns]) * step
    return moved


def _measured(adata: AnnData, truth: AnnData | None, genes: list[str], *, layer: str | None) -> dict[str, Array]:
    """Log1p of the measured counts of genes, spots in the order of `adata`."""
    from scfoundry.data.matrix.checks import require_counts
    from scfoundry.data.matrix.loaders import read_rows
    from scfoundry.data.matrix.state import to_linear

    source = adata if truth is None else truth
    present = [gene for gene in genes if gene in source.var_names]
    rows = source.obs_names.get_indexer(adata.obs_names)
    if (rows < 0).any():
        msg = (
            f"truth lacks {(rows < 0).sum():,} of the {adata.n_obs:,} spots of adata. Both need the same obs_names: "
            "truth = full[adata.obs_names]."
        )
        raise ValueError(msg)
    if truth is not None and len(present) < len(genes):
        absent = [gene for gene in genes if gene not in present]
        msg = f"truth lacks {quoted(absent, 5)}. Leave truth out to draw the imputed values alone."
        raise ValueError(msg)
    if not present:
        return {}
    report = require_counts(source, layer=layer, caller=CALLER, allow_log1p=True)
    columns = to_linear(read_rows(source[:, present], rows, layer=layer), report.state).toarray()
    return dict(zip(present, np.log1p(columns.astype(np.float64)).T, strict=True))


def _panels(
    n_genes: int, per_gene: int, extent: Array, n_sections: int, *, ncols: int | None, axes: Any
) -> NDArray[Any]:
    """Axes, genes x panels of a gene, in a new figure if none are given."""
    import matplotlib.pyplot as plt

    if axes is not None:
        given = np.array(axes, dtype=object).ravel()
        if len(given) != n_genes * per_gene:
            msg = (
                f"axes holds {len(given)}, but {n_genes} genes with {per_gene} each need "
                f"{n_genes * per_gene}. Pass so many, or leave axes out."
            )
            raise ValueError(msg)
        return given.reshape(n_genes, per_gene)
    in_a_row = min(n_genes, MOST_PANELS_IN_A_ROW // per_gene if ncols is None else ncols)
    n_rows = math.ceil(n_genes / in_a_row)
    aspect = float(np.clip(extent[1] / max(extent[0], 1e-12), 0.25, 4))
    area = PANEL_AREA * math.sqrt(min(n_sections, 4))
    width, height = math.sqrt(area / aspect), math.sqrt(area * aspect)
    figure, grid = plt.subplots(
        n_rows,
        in_a_row * per_gene,
        figsize=((width + 0.9) * in_a_row * per_gene, (height + 0.6) * n_rows),
        squeeze=False,
    )
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panels = grid.reshape(-1, per_gene)
    for ax in panels[n_genes:].ravel():
        figure.delaxes(ax)
    return panels[:n_genes]


def _spacing(xy: Array) -> float:
    """Distance at which most spots have their nearest neighbour."""
    from scipy.spatial import cKDTree

    apart = np.unique(xy, axis=0)
    if len(apart) < 2:
        return 1.0
    return float(np.median(cKDTree(apart).query(apart, 2)[0][:, 1]))


def _draw(ax: Axes, xy: Array, values: Array, diameter: float, cmap: str, title: str) -> None:
    """Dots of the size of spots, high values above low ones."""
    from matplotlib.collections import EllipseCollection

    order = np.argsort(values, kind="stable")
    low, high = np.quantile(values, SHOWN)
    if high <= low:
        low, high = values.min(), max(values.max(), values.min() + 1e-3)
    size = np.full(len(xy), diameter)
    dots = EllipseCollection(
        size, size, np.zeros(len(xy)), units="xy", offsets=xy[order], offset_transform=ax.transData, linewidths=0
    )
    dots.set(array=values[order], cmap=cmap, clim=(low, high))
    ax.add_collection(dots)
    (left, top), (right, bottom) = xy.min(0) - diameter, xy.max(0) + diameter
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="equal")
    ax.set_title(title, fontsize="medium")
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(dots, ax=ax, shrink=0.7, label="log1p counts")
    bar.outline.set_visible(False)


def _name_sections(ax: Axes, xy: Array, labels: NDArray[np.str_]) -> None:
    """Names above the sections where there are several."""
    sections = list(dict.fromkeys(labels))
    if len(sections) == 1:
        return
    for name in sections:
        own = xy[labels == name]
        middle, top = own.min(0)[0] + np.ptp(own[:, 0]) / 2, own[:, 1].min()
        ax.annotate(name, (middle, top), (0, 5), textcoords="offset points", fontsize="small", ha="center", color="0.3")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high - GAP / 2 * abs(high - low))
