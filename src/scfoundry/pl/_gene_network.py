"""Networks of genes: the edges that weigh most, as arrows from the gene attended to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import quoted, require_column
from scfoundry._keys import Keys
from scfoundry.pl._drawing import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData
    from numpy.typing import NDArray

__all__ = ["gene_network"]

# Area of the gene with fewest and with most edges, in square points, and width of the lightest and the heaviest edge.
AREAS, WIDTHS = (30.0, 260.0), (0.5, 2.2)
GREYS = (0.75, 0.15)
# Bend of the arrows: the two directions of a pair lie apart.
BEND = 0.12
# Connected parts are drawn side by side, with a gap of this share of their width between.
GAP = 0.35


def gene_network(
    adata: AnnData | MuData,
    key: str = Keys.GENE_NETWORK,
    *,
    group: str | None = None,
    n_edges: int = 60,
    genes: str | Sequence[str] | None = None,
    color: str | None = None,
    palette: Any = None,
    modality: str = Keys.RNA,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw the edges of a gene network that weigh most.

    An arrow leads from the gene attended to, to the gene that attends; the heavier the edge, the darker and wider. The
    more edges a gene has in the picture, the larger it is. Places mean nothing but who is connected with whom.

    Parameters
    ----------
    adata
        Cells x genes after `sf.tl.gene_network`.
    key
        Slot of ``uns`` that it wrote.
    group
        Group of cells to draw; needed where there are several.
    n_edges
        How many edges to draw.
    genes
        Draw only edges from or to these genes.
    color
        Column of ``var`` with groups of genes, such as ``"gene_programmes"``; one colour for all if `None`.
    palette
        Colours of these groups in their order, or the name of a colour map; matplotlib's own if `None`.
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
        If there is no such result, group, column or gene, or no edge to draw.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.tl.gene_network(adata, groupby="bulk_labels", n_genes=100, model="langcell")
    >>> sf.pl.gene_network(adata, group="Dendritic")
    """
    import matplotlib.pyplot as plt

    from scfoundry.data.modality import modality_of

    adata = modality_of(adata, modality)
    edges = _edges(adata, key, group, genes, n_edges)
    names = sorted({*edges["source"], *edges["target"]})
    place = {name: i for i, name in enumerate(names)}
    pairs = np.array([[place[a], place[b]] for a, b in zip(edges["source"], edges["target"], strict=True)])
    xy = _layout(len(names), pairs)
    colours = _colours(adata, names, color, palette)
    if ax is None:
        side = float(np.clip(1.1 * np.sqrt(len(names)), 4.5, 12))
        ax = plt.subplots(figsize=(side + (1.5 if color else 0), side), layout="constrained")[1]
    n_of_gene = np.bincount(pairs.ravel(), minlength=len(names))
    areas = np.interp(n_of_gene, (1, max(2, n_of_gene.max())), AREAS)
    _draw_edges(xy, pairs, edges["weight"].to_numpy(dtype=float), np.sqrt(areas / np.pi), ax)
    _draw_genes(xy, names, areas, colours, color, ax)
    ax.set(xticks=[], yticks=[], title=str(edges["group"].iloc[0]) if edges["group"].nunique() == 1 else "")
    ax.spines[:].set_visible(False)
    ax.margins(0.08)
    return shown(ax, show, save)


def _edges(
    adata: AnnData, key: str, group: str | None, genes: str | Sequence[str] | None, n_edges: int
) -> pd.DataFrame:
    """Edges to draw, the heaviest first."""
    if Keys.EDGES not in adata.uns.get(key, {}):
        msg = f"adata has no result {key!r} of sf.tl.gene_network. Run it first: sf.tl.gene_network(adata)."
        raise ValueError(msg)
    if not isinstance(n_edges, int | np.integer) or n_edges < 1:
        msg = f"n_edges is the number of edges to draw, from 1; got {n_edges!r}. The default: n_edges=60."
        raise ValueError(msg)
    edges = adata.uns[key][Keys.EDGES]
    groups = list(edges["group"].cat.categories)
    if group is None and len(groups) > 1:
        msg = f"The result has {len(groups)} groups, of which one is drawn. Pass group= one of {quoted(groups)}."
        raise ValueError(msg)
    if group is not None and group not in groups:
        msg = f"The result has no group {group!r}. Pass group= one of {quoted(groups)}."
        raise ValueError(msg)
    edges = edges[edges["group"] == (groups[0] if group is None else group)]
    if genes is not None:
        wanted = [genes] if isinstance(genes, str) else list(genes)
        known = {*edges["source"], *edges["target"]}
        if absent := [gene for gene in wanted if gene not in known]:
            msg = (
                f"No edge that was kept is from or to {quoted(absent, 10)}. Leave them out, or keep more edges: "
                "sf.tl.gene_network(adata, ..., top_k=10_000)."
            )
            raise ValueError(msg)
        edges = edges[edges["source"].isin(wanted) | edges["target"].isin(wanted)]
    if not len(edges):
        msg = "There is no edge to draw. Ask for fewer cells per edge: sf.tl.gene_network(adata, ..., min_cells=1)."
        raise ValueError(msg)
    return edges.iloc[:n_edges]


def _layout(n_genes: int, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Places of genes, (n, 2): each connected part by itself, the same at every call, the parts in rows."""
    import igraph

    graph = igraph.Graph(n_genes, pairs.tolist())
    parts = sorted(graph.connected_components(), key=lambda part: (-len(part), part))
    xy = np.zeros((n_genes, 2))
    boxes: list[tuple[list[int], NDArray[np.float64]]] = []
    for part in parts:
        # From a circle Kamada and Kawai's way needs no chance. Edges have length 1.
        of_part = graph.induced_subgraph(part).simplify()
        around = 2 * np.pi * np.arange(len(part)) / len(part)
        start = np.c_[np.cos(around), np.sin(around)].tolist()
        placed = np.array(of_part.layout_kamada_kawai(seed=start).coords)
        boxes.append((part, _along(placed) - _along(placed).min(0)))
    width = max(float(np.ptp(boxes[0][1][:, 0])), np.sqrt(sum(np.prod(np.ptp(box, axis=0) + GAP) for _, box in boxes)))
    left, below, height = 0.0, 0.0, 0.0
    for part, box in boxes:
        if left > 0 and left + np.ptp(box[:, 0]) > 1.05 * width:
            left, below, height = 0.0, below + height + 2 * GAP, 0.0
        xy[part] = box + np.array([left, below])
        left, height = left + float(np.ptp(box[:, 0])) + 4 * GAP, max(height, float(np.ptp(box[:, 1])))
    return xy * [1, -1]


def _along(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turned so that most of the width is to the right: names are wide, and lie beside each other least."""
    centred = xy - xy.mean(0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2].T if len(xy) > 2 else centred


def _draw_edges(
    xy: NDArray[np.float64],
    pairs: NDArray[np.int64],
    weights: NDArray[np.float64],
    radii: NDArray[np.float64],
    ax: Axes,
) -> None:
    """One bent arrow per edge, the heaviest on top."""
    from matplotlib.patches import FancyArrowPatch

    share = (weights - weights.min()) / max(float(np.ptp(weights)), 1e-12)
    for i in np.argsort(share, kind="stable"):
        source, target = pairs[i]
        arrow = FancyArrowPatch(
            xy[source],
            xy[target],
            connectionstyle=f"arc3,rad={BEND}",
            arrowstyle="-|>",
            mutation_scale=8,
            shrinkA=radii[source],
            shrinkB=radii[target] + 1,
            linewidth=np.interp(share[i], (0, 1), WIDTHS),
            color=str(np.interp(share[i], (0, 1), GREYS)),
            zorder=1,
        )
        ax.add_patch(arrow)


def _draw_genes(
    xy: NDArray[np.float64],
    names: list[str],
    areas: NDArray[np.float64],
    colours: pd.DataFrame,
    color: str | None,
    ax: Axes,
) -> None:
    """Points with their names."""
    for label, of_label in colours.groupby("label", sort=False):
        own = of_label.index.to_numpy()
        fill = of_label["colour"].iloc[0]
        x, y = xy[own].T
        ax.scatter(x, y, s=areas[own], color=fill, edgecolors="white", linewidths=0.8, zorder=2, label=str(label))
    for place, name, area in zip(xy, names, areas, strict=True):
        ax.annotate(
            name,
            tuple(place),
            xytext=(0, np.sqrt(area / np.pi) + 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            zorder=3,
            bbox={"boxstyle": "square,pad=0", "facecolor": "white", "edgecolor": "none", "alpha": 0.65},
        )
    if color is not None:
        key = ax.legend(title=color, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        for handle in key.legend_handles:
            handle.set_sizes([60])  # type: ignore[union-attr]


def _colours(adata: AnnData, names: list[str], color: str | None, palette: Any) -> pd.DataFrame:
    """Label and colour of every gene."""
    import matplotlib.pyplot as plt

    if color is None:
        return pd.DataFrame({"label": "", "colour": "C0"}, index=range(len(names)))
    require_column(adata.var, color, fix="color", name="adata.var")
    # In the order of the column's own categories, those that are drawn.
    values = adata.var.loc[~adata.var_names.duplicated(), color].reindex(names)
    groups = pd.Categorical(values).remove_unused_categories()
    if isinstance(palette, str):
        palette = plt.get_cmap(palette)(np.linspace(0, 1, max(len(groups.categories), 1)))
    cycle = plt.get_cmap("tab10" if len(groups.categories) <= 10 else "tab20").colors if palette is None else palette  # type: ignore[attr-defined]
    label = [str(groups.categories[code]) if code >= 0 else "none" for code in groups.codes]
    colour = [cycle[code % len(cycle)] if code >= 0 else "0.7" for code in groups.codes]
    table = pd.DataFrame({"label": label, "colour": colour, "code": np.where(groups.codes < 0, np.inf, groups.codes)})
    return table.sort_values("code", kind="stable")
