"""Codes that tell groups of cells apart, with their genes and gene sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import require_column
from scfoundry._keys import Keys
from scfoundry.pl._drawing import shown

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

__all__ = ["pathway_tokens"]

# Of a row, a column, and a letter beside and below them, in inches; the bar of colours needs a width of its own.
HEIGHT, WIDTH, LETTER = 0.24, 0.34, 0.065
LEAST_WIDTH = 2.4
# Differences up to half a standard deviation stay pale.
LEAST_REACH = 0.5
# Letters of a gene set's name that are drawn.
LONGEST = 60


def pathway_tokens(
    adata: AnnData | MuData,
    groupby: str,
    *,
    key: str = Keys.PATHWAY_TOKENS,
    n_codes: int = 20,
    n_genes: int = 3,
    cmap: str = "RdBu_r",
    modality: str = Keys.RNA,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw how often groups of cells use the codes that tell them apart.

    A row is a code, with the genes that go with it best on the left, and the surest of its gene sets on the right. Its
    colours are the mean frequency in every group less the mean over groups, in standard deviations of the cells. Drawn
    are the codes with the largest share of variance between groups, each group counting alike; rows follow the group
    that uses them most.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.pathway_tokens`. Cells without tokens or group are left out.
    groupby
        Column of ``obs`` with two groups of cells or more.
    key
        Slot of ``uns`` that it wrote.
    n_codes
        Codes to draw at most.
    n_genes
        Genes to name beside a code; 0 for none.
    cmap
        Name of a colour map, its middle for the mean over groups.
    modality
        Modality of a `MuData`.
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
        If there is no such result or column, less than two groups have cells with tokens, no code differs between
        cells, or a number is out of range.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.pathway_tokens(adata)
    >>> sf.pl.pathway_tokens(adata, "bulk_labels")
    """
    import matplotlib.pyplot as plt

    from scfoundry.data.modality import modality_of

    whole = isinstance(n_codes, int | np.integer) and isinstance(n_genes, int | np.integer)
    if not whole or n_codes < 1 or n_genes < 0:
        msg = (
            f"n_codes is a number of codes, from 1, and n_genes one of genes, from 0; got {n_codes!r} and {n_genes!r}. "
            "The defaults: n_codes=20, n_genes=3."
        )
        raise ValueError(msg)
    adata = modality_of(adata, modality)
    table = _differences(adata, groupby, key, n_codes)
    labels, sets = _labels(adata, key, table.index, n_genes), _best_sets(adata, key, table.index)
    if ax is None:
        beside, below = (max(map(len, names)) for names in (labels, map(str, table.columns)))
        width = max(WIDTH * table.shape[1], LEAST_WIDTH) + LETTER * (beside + 0.9 * max(map(len, sets)))
        height = 1.1 + HEIGHT * len(table) + 0.7 * LETTER * below
        ax = plt.subplots(figsize=(width + 0.4, height), layout="constrained")[1]
    values = table.to_numpy()
    reach = max(float(np.abs(values).max()), LEAST_REACH)
    image = ax.imshow(values, cmap=cmap, vmin=-reach, vmax=reach, aspect="auto")
    ax.set_xticks(range(table.shape[1]), table.columns, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_yticks(range(len(table)), labels, fontsize=8)
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": "0.35"}
    for row, name in enumerate(sets):
        ax.annotate(name, (1, row), (6, 0), xycoords=ax.get_yaxis_transform(), va="center", **look)
    ax.annotate("genes   code" if n_genes else "code", (0, 1), (-3, 3), xycoords="axes fraction", ha="right", **look)
    if any(sets):
        ax.annotate("surest gene set", (1, 1), (6, 3), xycoords="axes fraction", **look)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, location="top", shrink=0.7, aspect=25, pad=0.03)
    bar.set_label("frequency less the mean over groups (SD)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return shown(ax, show, save)


def _differences(adata: AnnData, groupby: str, key: str, n_codes: int) -> pd.DataFrame:
    """Codes x groups: mean frequency less the mean over groups, in standard deviations, of the codes to draw."""
    slot = next((name for name in (Keys.embedding(key), key) if name in adata.obsm), None)
    if slot is None or Keys.ASSOCIATION not in adata.uns.get(key, {}):
        msg = f"adata has no result {key!r} of sf.tl.pathway_tokens. Run it first: sf.tl.pathway_tokens(adata)."
        raise ValueError(msg)
    require_column(adata.obs, groupby, fix="groupby")
    frequencies, groups = adata.obsm[slot], pd.Categorical(adata.obs[groupby])
    kept = (groups.codes >= 0) & frequencies.notna().all(axis=1).to_numpy()
    of_group = frequencies[kept].astype(float).groupby(groups[kept].remove_unused_categories(), observed=True)
    means = of_group.mean().T
    if means.shape[1] < 2:
        msg = (
            f"adata.obs[{groupby!r}] has cells with tokens in {means.shape[1]} groups; there is nothing to compare. "
            "Pass a column with two groups or more as groupby."
        )
        raise ValueError(msg)
    between, within = means.var(axis=1, ddof=0), of_group.var(ddof=0).mean()
    total = (between + within)[between + within > 0]
    if not len(total):
        msg = "All cells have the same tokens, and no code tells groups apart. Draw more cells, or use other weights."
        raise ValueError(msg)
    chosen = (between / total).dropna().sort_values(ascending=False, kind="stable").index[:n_codes]
    table = means.loc[chosen].sub(means.loc[chosen].mean(axis=1), axis=0).div(np.sqrt(total[chosen]), axis=0)
    values = table.to_numpy()
    return table.iloc[np.lexsort((-values.max(1), values.argmax(1)))]


def _labels(adata: AnnData, key: str, codes: pd.Index, n_genes: int) -> list[str]:
    """Number of every code, behind its first genes."""
    association = adata.uns[key][Keys.ASSOCIATION]
    first = association[association["rank"] <= n_genes].groupby("code", observed=True)["gene"]
    genes = first.agg(", ".join).to_dict()
    return [f"{genes[code]}   {code[5:]}" if code in genes else code[5:] for code in codes]


def _best_sets(adata: AnnData, key: str, codes: pd.Index) -> list[str]:
    """The surest gene set of every code, "" where there is none."""
    found = adata.uns[key].get(Keys.ENRICHMENT)
    if found is None:
        return [""] * len(codes)
    best = found.drop_duplicates("code").set_index("code")["gene_set"].astype(str).to_dict()
    names = [best.get(code, "") for code in codes]
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..." for name in names]
