from ._annotation import annotation, annotation_by_class
from ._calibration import calibration
from ._clustering import clustering
from ._cz_benchmark import cz_benchmark
from ._denoising import denoising
from ._drug_response import drug_response
from ._imputation import imputation, summarise
from ._integration import integration
from ._ontology_agreement import ontology_agreement
from ._perturbation import perturbation
from ._perturbation_centroids import perturbation_centroids
from ._retrieval import retrieval

__all__ = [
    "annotation",
    "annotation_by_class",
    "calibration",
    "clustering",
    "cz_benchmark",
    "denoising",
    "drug_response",
    "imputation",
    "integration",
    "ontology_agreement",
    "perturbation",
    "perturbation_centroids",
    "retrieval",
    "summarise",
]
