from ._benchmark import benchmark
from ._calibration import calibration
from ._cell_attention import cell_attention
from ._cells_and_texts import cells_and_texts
from ._confusion import confusion
from ._drug_response import drug_response
from ._gene_matching import gene_matching
from ._gene_network import gene_network
from ._history import history
from ._imputed import imputed
from ._label_scores import label_scores
from ._long_tail import long_tail
from ._pathway_tokens import pathway_tokens
from ._perturbation import perturbation
from ._retrieval import retrieval

__all__ = [
    "benchmark",
    "calibration",
    "cell_attention",
    "cells_and_texts",
    "confusion",
    "drug_response",
    "gene_matching",
    "gene_network",
    "history",
    "imputed",
    "label_scores",
    "long_tail",
    "pathway_tokens",
    "perturbation",
    "retrieval",
]
