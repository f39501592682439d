from .annotation.annotator import Annotator
from .annotation.pathways import Pathways
from .denoising.denoiser import Denoiser
from .perturbation.responses import Responses

__all__ = ["Annotator", "Denoiser", "Pathways", "Responses"]
