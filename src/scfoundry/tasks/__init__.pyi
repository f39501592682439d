from .perturbation.responses import Responses

__all__ = ["Responses"]
