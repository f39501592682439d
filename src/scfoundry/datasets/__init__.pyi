from ._cell_ontology import cell_ontology
from ._human_genes import human_genes

__all__ = ["cell_ontology", "human_genes"]
