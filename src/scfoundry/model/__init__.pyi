from ._classes import Celler, CellLM, CellNamer, CellPLM, LangCell, ScPaLM
from ._foundation import FoundationModel
from ._list_pretrained import list_pretrained
from ._load import load_pretrained
from .celler import CellerConfig
from .celllm import CellLMConfig
from .cellnamer import CellNamerConfig
from .cellplm import CellPLMConfig
from .langcell import LangCellConfig
from .scpalm import ScPaLMConfig

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
