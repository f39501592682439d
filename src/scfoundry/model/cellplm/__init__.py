"""CellPLM: pre-training of cell language model beyond single cells (Wen et al., ICLR 2024)."""

from scfoundry.model.cellplm._config import CellPLMConfig

__all__ = ["CellPLMConfig"]
