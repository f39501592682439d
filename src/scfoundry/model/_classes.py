"""Classes of the models as scvi-tools knows them, with data to learn from."""

from __future__ import annotations

from scfoundry.model._foundation import registered
from scfoundry.model.celler import _model as celler
from scfoundry.model.celllm import _model as celllm
from scfoundry.model.cellnamer import _model as cellnamer
from scfoundry.model.cellplm import _model as cellplm
from scfoundry.model.langcell import _model as langcell
from scfoundry.model.scpalm import _model as scpalm

__all__ = ["CellLM", "CellNamer", "CellPLM", "Celler", "LangCell", "ScPaLM"]

Celler = registered(celler.Celler)
CellLM = registered(celllm.CellLM)
CellNamer = registered(cellnamer.CellNamer)
CellPLM = registered(cellplm.CellPLM)
LangCell = registered(langcell.LangCell)
ScPaLM = registered(scpalm.ScPaLM)
