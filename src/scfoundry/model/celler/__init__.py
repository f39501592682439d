"""Celler, the gene language model of scGPT."""

from scfoundry.model.celler._config import CellerConfig

__all__ = ["CellerConfig"]
