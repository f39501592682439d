"""CellLM."""

from scfoundry.model.celllm._config import CellLMConfig
from scfoundry.model.celllm._model import CellLM

__all__ = ["CellLM", "CellLMConfig"]
