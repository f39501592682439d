"""What heads on standardised expression read of a cell: its embedding, and its place among all cells at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from scfoundry.stats.components import PrincipalAxes, gathered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model._contracts import Query

__all__ = ["CellFeatures"]

# Lengths as a head reads them, of components on average: what a data set shows of itself counts for more than what
# other data sets have taught.
LATENT_LENGTH, COMPONENTS_LENGTH = 10.0, 20.0


class CellFeatures(NamedTuple):
    """Embeddings beside the principal components of reference and query together.

    Attributes
    ----------
    axes
        Of the components.
    genes
        Vocabulary positions of the genes they were found by.
    """

    axes: PrincipalAxes
    genes: NDArray[np.int64]

    @classmethod
    def of(
        cls, reference: CountsReader, query: Query | None, genes: NDArray[np.int64] | None
    ) -> tuple[Self, NDArray[np.float64]]:
        """Axes of reference and query, by ``genes`` or all that the reference measured; components of the former."""
        panel = np.asarray(reference.alignment.measured if genes is None else genes, dtype=np.int64)
        sides = [reference.only(panel), *([] if query is None else [query.reader.only(panel)])]
        moments = {side: gathered(side) for side in sides}
        axes = PrincipalAxes.of(moments)
        return cls(axes, panel), axes.project(sides[0], moments[sides[0]])

    def components(self, reader: CountsReader) -> NDArray[np.float64]:
        """Components of cells, (n_obs, k), NaN for those without counts of the genes."""
        return self.axes.project(reader.only(self.genes))

    def __call__(self, latent: NDArray[np.float32], components: NDArray[np.float64]) -> NDArray[np.float32]:
        """Both on their scales, (n_obs, Z + k); cells without a place among others have the mean one."""
        placed = np.nan_to_num(components) / max(self.axes.spread, 1e-9)
        return np.c_[LATENT_LENGTH * latent, COMPONENTS_LENGTH * placed].astype(np.float32)
