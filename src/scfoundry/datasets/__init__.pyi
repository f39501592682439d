from ._human_genes import human_genes

__all__ = ["human_genes"]
