"""scPaLM."""

from scfoundry.model.scpalm._config import ScPaLMConfig
from scfoundry.model.scpalm._model import ScPaLM

__all__ = ["ScPaLM", "ScPaLMConfig"]
