from ._benchmark import benchmark
from ._cell_attention import cell_attention
from ._drug_response import drug_response
from ._gene_matching import gene_matching
from ._gene_network import gene_network
from ._imputed import imputed
from ._long_tail import long_tail
from ._pathway_tokens import pathway_tokens
from ._perturbation import perturbation

__all__ = [
    "benchmark",
    "cell_attention",
    "drug_response",
    "gene_matching",
    "gene_network",
    "imputed",
    "long_tail",
    "pathway_tokens",
    "perturbation",
]
