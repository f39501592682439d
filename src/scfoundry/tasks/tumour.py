"""Which cells come from a tumour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import DiscriminatesTumour

__all__ = ["CONFOUNDED", "tumour_probabilities"]

CONFOUNDED = (
    "The label 'tumour' is confounded with the study that it was learned from: a cell counts as of a tumour if its "
    "sample was one, normal cells of that sample included, and studies differ by technology, tissue and laboratory, "
    "too. A high probability may tell the study rather than the tumour."
)


def tumour_probabilities(model: DiscriminatesTumour, cells: Cells, *, compute: Compute) -> NDArray[np.float32]:
    """Probability that a cell comes from a tumour, (n_obs,); NaN for a cell without any gene of the model."""
    probabilities = model.tumour_probabilities(cells, compute)
    return np.where(cells.empty, np.float32(np.nan), probabilities)
