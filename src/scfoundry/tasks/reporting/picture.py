"""Cells as dots in a plane: a picture without background, for pages in light and in dark."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scfoundry._keys import Keys

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.tasks.reporting.records import Result

__all__ = ["SIDE", "colours_of", "draw", "plane_of"]

# Width and height of a picture, in the units of its texts.
SIDE = 640
# Of middle lightness, to be read on white and on black.
PALETTE = (
    "#3d8bd4", "#e0803a", "#3aa66a", "#d9534f", "#9a6fd0",
    "#a87b5d", "#d770b4", "#7f9a2c", "#28a9b8", "#c9a227",
    "#5f7fe0", "#c2607d", "#4f9d8a", "#b58ad6", "#8a8f3f",
    "#e58f7b", "#6aa9df", "#b0673f", "#5bb04c", "#c56fd0",
)  # fmt: skip
GREY = "#8d8d8d"
DOTS_PER_UNIT = 2
# Of a text in the size that a phone shows: a line, and a letter.
LINE, LETTER = 22, 10


@dataclass(frozen=True)
class Dots:
    """A picture as the address of an image, with the place and the text of every label."""

    image: str
    places: list[tuple[float, float, str]]


def plane_of(adata: AnnData, results: list[Result], basis: str | None) -> tuple[NDArray[np.float64], str] | None:
    """Two coordinates of every cell, (n_obs, 2), and what they are; `None` without any embedding.

    That of ``basis``, else of the UMAP, else of the first embedding that a verb wrote; of more than two columns the
    first two principal components.
    """
    written = [Keys.embedding(result.key) for result in results] + [result.key for result in results]
    candidates = [basis] if basis else ["X_umap", *(key for key in written if key.startswith("X_"))]
    found = next((key for key in candidates if key in adata.obsm), None)
    if found is None:
        return None
    values = np.asarray(adata.obsm[found], dtype=np.float64)
    if values.shape[1] == 2:
        return values, "UMAP" if found == "X_umap" else found
    centred = values - values.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, :-3:-1], f"first two principal components of {found}"


def colours_of(names: list[str]) -> dict[str, str]:
    """A colour of every label, grey of the unknown; they come round again after twenty."""
    known = [name for name in names if name != Keys.UNKNOWN]
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(known)} | {Keys.UNKNOWN: GREY}


def draw(plane: NDArray[np.float64], labels: pd.Series, colours: dict[str, str]) -> Dots:
    """Dots in the colours of their labels, in an order that no label wins, with labels in the middle of their cells."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    low, high = plane.min(0), plane.max(0)
    span = float(max((high - low).max(), 1e-9))
    shown = (plane - (low + high) / 2) / (1.08 * span) + 0.5  # in the unit square, both axes alike
    order = np.random.default_rng(0).permutation(len(plane))
    figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100 * DOTS_PER_UNIT)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    of_cell = np.array([colours.get(label, GREY) for label in labels], dtype=object)
    area = float(np.clip(40_000 / max(len(plane), 1), 0.4, 22))
    axes.scatter(shown[order, 0], shown[order, 1], s=area, c=of_cell[order].tolist(), linewidths=0)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    written = io.BytesIO()
    figure.savefig(written, format="png", transparent=True)
    image = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    return Dots(image, _places(shown, labels, [name for name in colours if name != Keys.UNKNOWN]))


def _places(shown: NDArray[np.float64], labels: pd.Series, names: list[str]) -> list[tuple[float, float, str]]:
    """Where texts go, from the top down, pushed down where they would stand on another."""
    middles = []
    for name in names:
        own = shown[(labels == name).to_numpy()]
        if len(own):
            # The cell nearest to the median: the median itself may lie between two islands.
            x, y = own[np.argmin(((own - np.median(own, 0)) ** 2).sum(1))]
            middles.append((float(x) * SIDE, (1 - float(y)) * SIDE, name))
    placed: list[tuple[float, float, str]] = []
    for x, y, name in sorted(middles, key=lambda place: place[1]):
        width = LETTER * len(name)
        x = min(max(x, width / 2 + 4), SIDE - width / 2 - 4)
        for other_x, other_y, other in placed:
            if abs(y - other_y) < LINE and abs(x - other_x) < (width + LETTER * len(other)) / 2:
                y = other_y + LINE
        placed.append((round(x, 1), round(min(y, SIDE - 8), 1), name))
    return placed
