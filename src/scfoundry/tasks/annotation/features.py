"""What linear heads read of a cell: its embedding, and its place among all cells at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from scfoundry.data.slots import refuse_not_finite
from scfoundry.model._capabilities import ReadsTexts, can
from scfoundry.stats.components import PrincipalAxes, gathered
from scfoundry.tasks._fitted import prefixed, under

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["CellFeatures", "LinearHead"]

# Mean lengths as a head reads them: what a data set shows of itself counts for more than what pre-training learned.
LATENT_LENGTH, COMPONENTS_LENGTH = 10.0, 20.0
TINY = 1e-9


@dataclass(frozen=True, eq=False)
class CellFeatures:
    """Embeddings beside the principal components of reference and query together.

    Embeddings that share a space with texts have length 1 and count from the origin.
    """

    axes: PrincipalAxes
    genes: NDArray[np.int64]  # vocabulary positions of the genes that the axes were found by
    center: NDArray[np.float64]  # of embeddings, (Z,)
    length: float  # of embeddings

    @classmethod
    def fit(
        cls, model: Any, reference: Cells, query: Cells | None, genes: NDArray[np.int64], compute: Compute
    ) -> tuple[Self, NDArray[np.float32]]:
        """Scales and axes by the cells at hand; features of the reference, (n_obs, Z + k)."""
        latent = model.embed(reference, compute)
        center, length = np.zeros(latent.shape[1]), 1.0
        if not can(model, ReadsTexts):
            center = latent.mean(0, dtype=np.float64)
            length = float(np.sqrt(np.square(latent - center).sum(1).mean()))
        datasets = [cells.reader.only(genes) for cells in (reference, query) if cells is not None]
        moments = {reader: gathered(reader) for reader in datasets}
        features = cls(PrincipalAxes.of(moments), genes, center, length)
        return features, features._scaled(latent, features.axes.project(datasets[0], moments[datasets[0]]))

    def __call__(self, model: Any, cells: Cells, compute: Compute) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Features of cells, (n_obs, Z + k), and their components, (n_obs, k), NaN for those without counts."""
        components = self.axes.project(cells.reader.only(self.genes))
        return self._scaled(model.embed(cells, compute), components), components

    def _scaled(self, latent: NDArray[np.float32], components: NDArray[np.float64]) -> NDArray[np.float32]:
        """Both on their scales; cells without a place among others have the mean one."""
        refuse_not_finite(latent, "the embedding", caller="annotate")
        embedded = LATENT_LENGTH * ((latent - self.center) / max(self.length, TINY))
        placed = np.nan_to_num(components) / max(self.axes.spread, TINY)
        return np.c_[embedded, COMPONENTS_LENGTH * placed].astype(np.float32)

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` makes the same features of."""
        own = {"panel": self.genes, "center": self.center, "length": np.array(self.length)}
        return prefixed("axes_", self.axes.arrays()) | own

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """Features that were stored."""
        axes = PrincipalAxes.from_arrays(under("axes_", arrays))
        return cls(axes, arrays["panel"], arrays["center"], float(arrays["length"]))


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Logits that are linear in the features of a cell."""

    weights: NDArray[np.float64]  # (F, L)
    bias: NDArray[np.float64]  # (L,)
    features: CellFeatures

    def logits(
        self, model: Any, cells: Cells, compute: Compute, offset: NDArray[np.float64] | float = 0.0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logits, (n_obs, L), with an offset of the same shape, and components of the cells, (n_obs, k)."""
        values, components = self.features(model, cells, compute)
        return offset + values @ self.weights + self.bias, components

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` makes the same head of."""
        return {"weights": self.weights, "bias": self.bias} | self.features.arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """Head that was stored."""
        return cls(arrays["weights"], arrays["bias"], CellFeatures.from_arrays(arrays))
