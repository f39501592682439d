"""LangCell."""

from scfoundry.model.langcell._config import LangCellConfig

__all__ = ["LangCellConfig"]
