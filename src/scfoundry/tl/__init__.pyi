from ._annotate import annotate
from ._benchmark import benchmark
from ._cell_attention import cell_attention
from ._denoise import denoise
from ._describe import describe
from ._describe_cells import describe_cells
from ._discriminate_tumour import discriminate_tumour
from ._drug_response import drug_response
from ._drug_sensitivity import drug_sensitivity
from ._embed import embed
from ._gene_network import gene_network
from ._gene_programmes import gene_programmes
from ._identify_pathways import identify_pathways
from ._impute_spatial import impute_spatial
from ._integrate import integrate
from ._pathway_tokens import pathway_tokens
from ._predict_perturbation import predict_perturbation
from ._rank_genes_attention import rank_genes_attention
from ._report import report
from ._retrieve import retrieve
from ._zero_shot_annotate import zero_shot_annotate

__all__ = [
    "annotate",
    "benchmark",
    "cell_attention",
    "denoise",
    "describe",
    "describe_cells",
    "discriminate_tumour",
    "drug_response",
    "drug_sensitivity",
    "embed",
    "gene_network",
    "gene_programmes",
    "identify_pathways",
    "impute_spatial",
    "integrate",
    "pathway_tokens",
    "predict_perturbation",
    "rank_genes_attention",
    "report",
    "retrieve",
    "zero_shot_annotate",
]
