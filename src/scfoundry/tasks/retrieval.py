"""Cells for texts and texts for cells: the most similar ones, exactly or through a graph of neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.labels import Label
    from scfoundry.model._capabilities import ReadsTexts

__all__ = ["Hits", "best_cells", "best_texts", "nearest_cells", "text_directions"]

# Building the graph takes longer than comparing all pairs below this.
EXACT_PAIRS = 20_000_000_000
SCORES_AT_ONCE = 64_000_000


class Hits(NamedTuple):
    """What was found, best first: q queries times the k best."""

    labels: NDArray[np.int64]  # number of the text, (q, k)
    rows: NDArray[np.int64]  # row of the cell, (q, k)
    scores: NDArray[np.float32]  # cosine or probability, (q, k)


def text_directions(model: ReadsTexts, labels: Sequence[Label], compute: Compute) -> NDArray[np.float32]:
    """Direction of the mean of a label's texts, unit vectors, (L, Z)."""
    embedded = model.embed_texts([text for label in labels for text in label.texts], compute)
    firsts = np.cumsum([0, *(len(label.texts) for label in labels)])[:-1]
    sums = np.add.reduceat(embedded, firsts, axis=0)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def best_cells(
    latent: NDArray[np.float32], directions: NDArray[np.float32], present: NDArray[np.bool_], k: int
) -> Hits:
    """The k cells (all if fewer) of those ``present`` (n_obs,) with the largest cosine to every text.

    Latent (n_obs, Z) and directions (L, Z) are unit vectors.
    """
    among = np.flatnonzero(present)
    own = latent if len(among) == len(latent) else latent[among]
    rows, cosines = nearest_cells(own, directions, min(k, len(among)))
    labels = np.broadcast_to(np.arange(len(directions))[:, None], rows.shape)
    return Hits(labels, among[rows], cosines)


def best_texts(probabilities: NDArray[np.float32], present: NDArray[np.bool_], k: int) -> Hits:
    """The k texts (all if fewer) with the highest probability (n_obs, L) for every cell ``present`` (n_obs,)."""
    among = np.flatnonzero(present)
    labels = np.argsort(-probabilities[among], axis=1, kind="stable")[:, :k]
    rows = np.broadcast_to(among[:, None], labels.shape)
    return Hits(labels, rows, np.take_along_axis(probabilities[among], labels, 1))


def nearest_cells(
    cells: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the k cells with the largest cosine to every query, and their cosines, (n_queries, k) each, best first.

    Cells (n_cells, Z) and queries (n_queries, Z) are unit vectors; equal cells stand in their order; k <= n_cells.
    """
    if len(cells) * len(queries) > EXACT_PAIRS:
        rows = _by_graph(cells, queries, k)
        lost = np.flatnonzero((rows < 0).any(1))
        # Where the search meets fewer than k cells it fills up with -1.
        if len(lost):
            rows[lost] = nearest_exactly(cells, queries[lost], k)[0]
        cosines = np.einsum("qkz,qz->qk", cells[rows], queries)
        order = np.lexsort((rows, -cosines))
        return np.take_along_axis(rows, order, 1), np.take_along_axis(cosines, order, 1)
    return nearest_exactly(cells, queries, k)


def nearest_exactly(
    cells: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same by comparing every query with every cell."""
    step = max(1, SCORES_AT_ONCE // len(cells))
    rows = np.empty((len(queries), k), dtype=np.int64)
    best = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), step):
        cosines = queries[start : start + step] @ cells.T
        # Everything that ties with the last one is looked at, so that ties go to the first cells.
        least = np.partition(cosines, len(cells) - k, axis=1)[:, len(cells) - k]
        for query, cosine in enumerate(cosines):
            candidates = np.flatnonzero(cosine >= least[query])
            rows[start + query] = candidates[np.argsort(-cosine[candidates], kind="stable")[:k]]
            best[start + query] = cosine[rows[start + query]]
    return rows, best


def _by_graph(cells: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    from pynndescent import NNDescent  # it compiles for many seconds when imported

    # A query among texts lies far from all cells: a wider search than the default 0.1 is needed to find the nearest.
    index = NNDescent(cells, metric="dot", n_neighbors=max(30, k), random_state=0)
    return index.query(queries, k=k, epsilon=0.3)[0].astype(np.int64)
