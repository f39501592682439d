"""Single-cell foundation models with scanpy's manners.

The namespaces load on first use: ``import scfoundry`` alone imports neither torch nor scanpy.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
