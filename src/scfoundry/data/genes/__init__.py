"""Genes of a model, and how the names of a data set meet them."""

from scfoundry.data.genes.alignment import GeneAlignment
from scfoundry.data.genes.vocabulary import GeneVocabulary

__all__ = ["GeneAlignment", "GeneVocabulary"]
