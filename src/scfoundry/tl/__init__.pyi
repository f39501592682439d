from ._describe import describe
from ._describe_cells import describe_cells
from ._embed import embed

__all__ = ["describe", "describe_cells", "embed"]
