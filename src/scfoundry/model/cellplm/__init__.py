"""CellPLM: pre-training of cell language model beyond single cells (Wen et al., ICLR 2024)."""

from scfoundry.model.cellplm._config import CellPLMConfig
from scfoundry.model.cellplm._model import CellPLM

__all__ = ["CellPLM", "CellPLMConfig"]
