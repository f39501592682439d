"""CellNamer."""

from scfoundry.model.cellnamer._config import CellNamerConfig

__all__ = ["CellNamerConfig"]
