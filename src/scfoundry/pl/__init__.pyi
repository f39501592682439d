from ._gene_matching import gene_matching

__all__ = ["gene_matching"]
