from ._bin_expression import bin_expression
from ._check import InputCheck, check
from ._gene_medians import gene_medians
from ._gene_vectors_from_graph import gene_vectors_from_graph
from ._holdout_genes import holdout_genes
from ._rank_encode import rank_encode
from ._simulate_dropout import simulate_dropout
from ._split_drug_response import split_drug_response
from ._split_perturbations import split_perturbations

__all__ = [
    "InputCheck",
    "bin_expression",
    "check",
    "gene_medians",
    "gene_vectors_from_graph",
    "holdout_genes",
    "rank_encode",
    "simulate_dropout",
    "split_drug_response",
    "split_perturbations",
]
