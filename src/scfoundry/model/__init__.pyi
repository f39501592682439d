from ._base import FoundationModel
from ._load import load_pretrained
from ._pretrained import list_pretrained
from .celler import Celler, CellerConfig
from .celllm import CellLM, CellLMConfig
from .cellnamer import CellNamer, CellNamerConfig
from .cellplm import CellPLM, CellPLMConfig
from .langcell import LangCell, LangCellConfig
from .scpalm import ScPaLM, ScPaLMConfig

__all__ = [
    "CellLM",
    "CellLMConfig",
    "CellNamer",
    "CellNamerConfig",
    "CellPLM",
    "CellPLMConfig",
    "Celler",
    "CellerConfig",
    "FoundationModel",
    "LangCell",
    "LangCellConfig",
    "ScPaLM",
    "ScPaLMConfig",
    "list_pretrained",
    "load_pretrained",
]
