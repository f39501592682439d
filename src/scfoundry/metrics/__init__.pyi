from ._annotation import annotation
from ._clustering import clustering
from ._denoising import denoising
from ._imputation import imputation, summarise

__all__ = ["annotation", "clustering", "denoising", "imputation", "summarise"]
