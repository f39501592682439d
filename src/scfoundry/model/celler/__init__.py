"""Celler, the gene language model of scGPT."""

from scfoundry.model.celler._config import CellerConfig
from scfoundry.model.celler._model import Celler

__all__ = ["Celler", "CellerConfig"]
