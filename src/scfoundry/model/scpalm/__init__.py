"""scPaLM."""

from scfoundry.model.scpalm._config import ScPaLMConfig

__all__ = ["ScPaLMConfig"]
