from ._holdout_genes import holdout_genes
from ._simulate_dropout import simulate_dropout

__all__ = ["holdout_genes", "simulate_dropout"]
