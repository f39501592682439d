"""What every plot ends with, and names in messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["listed", "shown"]

Drawn = TypeVar("Drawn")


def listed(names: Iterable[object], most: int | None = None) -> str:
    """Names in a message, ``'a', 'b', ...``; "none" if there are none."""
    every = [repr(str(name)) for name in names]
    return (", ".join(every[:most]) + (", ..." if most is not None and len(every) > most else "")) or "none"


def shown(axes: Drawn, show: bool | None) -> Drawn | None:
    """Show the figure and return nothing, or return the axes."""
    import matplotlib.pyplot as plt

    if not show:
        return axes
    plt.show()
    return None
