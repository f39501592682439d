from .denoising.denoiser import Denoiser
from .perturbation.responses import Responses

__all__ = ["Denoiser", "Responses"]
