from .denoising.denoiser import Denoiser

__all__ = ["Denoiser"]
