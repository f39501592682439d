"""CellLM."""

from scfoundry.model.celllm._config import CellLMConfig

__all__ = ["CellLMConfig"]
