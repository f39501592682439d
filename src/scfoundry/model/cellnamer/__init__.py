"""CellNamer."""

from scfoundry.model.cellnamer._config import CellNamerConfig
from scfoundry.model.cellnamer._model import CellNamer

__all__ = ["CellNamer", "CellNamerConfig"]
