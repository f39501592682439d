"""Cells that a model can learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scfoundry.data.matrix.cells import Cells

__all__ = ["expressed"]


def expressed(cells: Cells, *, otherwise: str) -> Cells:
    """The cells with counts, in the order of their names, so that the order of the data plays no part.

    ValueError: if there are none; the message ends in what to do ``otherwise``.
    """
    rows = cells.by_name[~cells.empty[cells.by_name]]
    if not len(rows):
        msg = (
            f"None of the {cells.n_obs:,} cells expresses a gene of the model, so that there is nothing to learn from. "
            f"{otherwise}"
        )
        raise ValueError(msg)
    return cells.take(rows)
