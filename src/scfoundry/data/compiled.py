"""Functions compiled by numba when they are first called, and kept on disk from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["compiled"]

F = TypeVar("F", bound="Callable")


def compiled(function: F) -> F:
    """Compile for threads that run side by side."""
    try:
        return cast("F", njit(nogil=True, cache=True)(function))
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written to: compiled anew in every process.
        return cast("F", njit(nogil=True)(function))
