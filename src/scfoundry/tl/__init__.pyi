from ._annotate import annotate
from ._cell_attention import cell_attention
from ._denoise import denoise
from ._describe import describe
from ._describe_cells import describe_cells
from ._embed import embed
from ._retrieve import retrieve
from ._zero_shot_annotate import zero_shot_annotate

__all__ = [
    "annotate",
    "cell_attention",
    "denoise",
    "describe",
    "describe_cells",
    "embed",
    "retrieve",
    "zero_shot_annotate",
]
