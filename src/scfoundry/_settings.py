"""How much the package says and where it keeps downloaded weights."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from platformdirs import user_cache_path

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["logger", "settings", "without_progress"]

Verbosity = Literal["error", "warning", "info", "debug"]

logger = logging.getLogger("scfoundry")

# Whether work that is going on in this thread is a step of longer work.
_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


class Settings:
    """Package-wide settings.

    Attributes
    ----------
    verbosity
        ``"error"``, ``"warning"``, ``"info"`` (default) or ``"debug"``. Progress bars show from ``"info"`` on.
    cache_dir
        Folder for downloaded weights. The environment variable ``SCFOUNDRY_CACHE`` sets the default.
    show_progress
        Whether long work shows a progress bar; never above ``verbosity="info"``.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.settings.verbosity = "warning"
    """

    def __init__(self) -> None:
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
            logger.propagate = False
        self.verbosity = "info"
        self._progress = True
        self.cache_dir = Path(os.environ.get("SCFOUNDRY_CACHE") or user_cache_path("scfoundry"))

    @property
    def verbosity(self) -> Verbosity:
        """Least severe message shown."""
        return self._verbosity

    @verbosity.setter
    def verbosity(self, value: Verbosity) -> None:
        if value not in get_args(Verbosity):
            msg = f'verbosity must be one of {", ".join(get_args(Verbosity))}; got {value!r}. Default: "info".'
            raise ValueError(msg)
        self._verbosity: Verbosity = value
        logger.setLevel(value.upper())

    @property
    def cache_dir(self) -> Path:
        """Folder for downloaded weights."""
        return self._cache_dir

    @cache_dir.setter
    def cache_dir(self, value: str | Path) -> None:
        if not isinstance(value, str | Path):
            msg = f'cache_dir must be a folder: sf.settings.cache_dir = "weights"; got {value!r}.'
            raise ValueError(msg)
        self._cache_dir = Path(value).expanduser()

    @property
    def show_progress(self) -> bool:
        """Whether long work shows a progress bar."""
        return self._progress and not _hidden.get() and logger.isEnabledFor(logging.INFO)

    @show_progress.setter
    def show_progress(self, value: bool) -> None:
        self._progress = bool(value)

    def __repr__(self) -> str:
        return f"Settings(verbosity={self.verbosity!r}, cache_dir={str(self.cache_dir)!r})"


settings = Settings()


@contextmanager
def without_progress() -> Iterator[None]:
    """Work that is a step of longer work shows no bar of its own."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)
