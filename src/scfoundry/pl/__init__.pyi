from ._cell_attention import cell_attention
from ._gene_matching import gene_matching

__all__ = ["cell_attention", "gene_matching"]
