from .annotation.annotator import Annotator
from .annotation.pathways import Pathways
from .denoising.denoiser import Denoiser
from .embedding.embedder import Embedder
from .integration.integrator import Integrator
from .perturbation.responses import Responses

__all__ = ["Annotator", "Denoiser", "Embedder", "Integrator", "Pathways", "Responses"]
