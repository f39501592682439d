from .annotation.annotator import Annotator
from .annotation.pathways import Pathways

__all__ = ["Annotator", "Pathways"]
