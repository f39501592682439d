"""Held-out cells: the same share of every class, drawn so that the order of the data plays no part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["at_most", "stratified_split"]


def stratified_split(
    codes: NDArray[np.int64], share: float, rows: NDArray[np.int64], rng: np.random.Generator, *, at_least: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide rows into those to learn from, in the given order, and a share held out of every class, ascending.

    Shares are rounded down; with ``at_least`` so many are held out of a class, and one row at least is learned from.
    """
    drawn = [rows[:0]]
    for code in np.unique(codes[rows]):
        own = rng.permutation(rows[codes[rows] == code])
        n = int(share * len(own))
        drawn.append(own[: min(max(n, at_least), len(own) - 1) if at_least else n])
    held_out = np.sort(np.concatenate(drawn))
    return rows[~np.isin(rows, held_out)], held_out


def at_most(n: int, codes: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``n`` of the rows: all of rare classes, equally many of each frequent one."""
    if len(rows) <= n:
        return rows
    of_class = [rows[codes[rows] == code] for code in np.unique(codes[rows])]
    left, drawn = n, []
    for n_done, own in enumerate(sorted(of_class, key=len)):
        drawn.append(rng.permutation(own)[: max(left // (len(of_class) - n_done), 1)])
        left -= len(drawn[-1])
    return np.concatenate(drawn)
