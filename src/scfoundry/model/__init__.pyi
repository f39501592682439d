from ._base import FoundationModel
from ._pretrained import list_pretrained, load_pretrained
from .cellplm import CellPLM

__all__ = ["CellPLM", "FoundationModel", "list_pretrained", "load_pretrained"]
