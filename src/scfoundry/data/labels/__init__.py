"""Labels of cells: their texts, and the terms of the Cell Ontology that they stand for."""

from scfoundry.data.labels.label import NO_LABEL, Label

__all__ = ["NO_LABEL", "Label"]
