"""LangCell."""

from scfoundry.model.langcell._config import LangCellConfig
from scfoundry.model.langcell._model import LangCell

__all__ = ["LangCell", "LangCellConfig"]
