from .annotation.annotator import Annotator
from .annotation.pathways import Pathways
from .denoising.denoiser import Denoiser
from .drug_response.drug_response import DrugResponse
from .embedding.embedder import Embedder
from .integration.integrator import Integrator
from .perturbation.responses import Responses

__all__ = ["Annotator", "Denoiser", "DrugResponse", "Embedder", "Integrator", "Pathways", "Responses"]
