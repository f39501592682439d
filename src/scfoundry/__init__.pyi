from . import datasets, metrics, model, pl, pp, tasks, tl
from ._settings import settings
from ._version import __version__

__all__ = ["__version__", "datasets", "metrics", "model", "pl", "pp", "settings", "tasks", "tl"]
