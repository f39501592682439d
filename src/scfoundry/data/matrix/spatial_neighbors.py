"""Cells that lie beside each other in a tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scfoundry.data.matrix.contexts import Context

__all__ = ["neighbor_average"]

ROUNDING = 1e-5
# Times the number of neighbours that is asked for: where more cells share one place, some are left out.
MOST_EQUALLY_NEAR = 4


def neighbor_average(
    groups: Sequence[Context], positions: Mapping[str, np.ndarray], n_cells: int, *, n_neighbors: int = 6
) -> sparse.csr_matrix:
    """Matrix that averages a cell with its nearest neighbours in the plane, never over the border of a context.

    There are ``n_neighbors`` beside the cell itself; 6 touch a spot on a hexagonal grid. Cells as near as the last of
    them are neighbours, too: on a square grid there are 8, and none depends on the order of cells. A cell without
    coordinates is its own only neighbour. CSR, (n, n) float32, rows sum to 1.

    >>> import numpy as np
    >>> from scfoundry.data.matrix.contexts import Context
    >>> line = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    >>> neighbor_average([Context("all", np.arange(3))], {"all": line}, 3, n_neighbors=1).toarray()
    array([[0.5, 0.5, 0. ],
           [0.5, 0.5, 0. ],
           [0. , 0.5, 0.5]], dtype=float32)
    """
    averages = []
    for group in groups:
        own = np.arange(len(group.rows))
        cell, neighbor = own, own
        if group.name in positions:
            xy = positions[group.name]
            distance, nearest = cKDTree(xy).query(xy, min(MOST_EQUALLY_NEAR * n_neighbors, len(xy)))
            distance, nearest = distance.reshape(len(xy), -1), nearest.reshape(len(xy), -1)
            farthest = distance[:, [min(n_neighbors, distance.shape[1] - 1)]]
            cell, column = np.nonzero(distance <= farthest * (1 + ROUNDING))
            neighbor = nearest[cell, column]
        weights = 1 / np.bincount(cell, minlength=len(own))[cell]
        averages.append((weights.astype(np.float32), group.rows[cell], group.rows[neighbor]))
    values, rows, columns = (np.concatenate(part) for part in zip(*averages, strict=True))
    return sparse.csr_matrix((values, (rows, columns)), shape=(n_cells, n_cells))
