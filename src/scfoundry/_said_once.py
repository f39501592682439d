"""Warnings that several steps of one call would repeat."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["not_said_before", "said_once"]

_said: ContextVar[set[str] | None] = ContextVar("said", default=None)
# What stands before a message: "sf.tl.annotate (reference): ", or "CellPLM.denoise: ".
_VERB = re.compile(r"^sf\.[\w.]+(?: \(\w+\))?: ")
_NUMBER = re.compile(r"[\d,]+")
_METHOD = re.compile(r"^(?!sf\.)[\w.]+: ")


@contextmanager
def said_once() -> Iterator[None]:
    """Let every warning through once: methods of a model check again what the user's verb has checked before them.

    Examples
    --------
    >>> @said_once()
    ... def verb() -> None: ...
    """
    if _said.get() is not None:
        yield
        return
    token = _said.set(set())
    try:
        yield
    finally:
        _said.reset(token)


def not_said_before(record: logging.LogRecord) -> bool:
    """Filter of the logger: whether a warning is new within `said_once`, whichever method of a model repeats it."""
    said = _said.get()
    if said is None or record.levelno != logging.WARNING:
        return True
    message = record.getMessage()
    bare = _METHOD.sub("", message)
    # A method may have got some of the cells only, so that its numbers differ.
    key = message if bare == message else _NUMBER.sub("#", bare)
    new = key not in said
    said.update((key, _NUMBER.sub("#", _VERB.sub("", message))))
    return new
