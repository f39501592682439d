from ._base import FoundationModel
from ._pretrained import list_pretrained, load_pretrained
from .cellplm import CellPLM, CellPLMConfig

__all__ = ["CellPLM", "CellPLMConfig", "FoundationModel", "list_pretrained", "load_pretrained"]
