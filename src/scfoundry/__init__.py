"""Single-cell foundation models with scanpy's manners.

The namespaces load on first use: ``import scfoundry`` alone imports neither torch nor scanpy.
"""

from pathlib import Path as _Path

import lazy_loader

from scfoundry._distribution import refuse_mixed_files as _refuse_mixed_files

_refuse_mixed_files(_Path(__file__).parents[1])

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
