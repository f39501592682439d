"""What differs between generations of the libraries looks the same to the rest of the package."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from scfoundry._compat import layer_names


def test_x_is_not_a_layer() -> None:
    counts = np.ones((2, 3), dtype=np.float32)
    assert layer_names(AnnData(counts, layers={"spliced": counts, "counts": counts})) == ["spliced", "counts"]
    assert layer_names(AnnData(counts)) == []
