"""Embedding: the latent of a model, the components of the data at hand, and what sets their batches apart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from scfoundry.model._capabilities import FineTunesExpression, require
from scfoundry.stats.batch_correction import BatchCorrection
from scfoundry.stats.splits import at_most
from scfoundry.tasks._expressed import expressed
from scfoundry.tasks._fitted import Fitted, prefixed, under
from scfoundry.tasks.embedding.latent_weight import latent_weight
from scfoundry.tasks.embedding.own_components import OwnComponents, own_genes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["Adaptation", "Embedder"]

# Cells that the batch correction learns from, at most.
MAX_CELLS = 20_000
CELLS_PER_BLOCK = 4096
TINY = 1e-12

Adaptation = Literal["components"]


@dataclass(frozen=True, eq=False)
class Embedder(Fitted):
    """A map of cells into one space, adapted to the cells that it was fitted to.

    Attributes
    ----------
    model
        What embeds cells; with ``fine_tune=True`` a copy that learned from those of the fit.
    weight
        Length of the model's latent beside principal components of length 1; 0 leaves it out.
    validation
        Share of the components of hidden genes that neighbours explain, by weight; empty if it was not measured.
    fine_tuned
        Whether the model learned from the cells of the fit.

    Examples
    --------
    >>> import scfoundry as sf
    >>> embedder = sf.tl.embed(adata, layer="counts", batch_key="sample", return_fitted=True)  # doctest: +SKIP
    >>> embedder.save("my_space")  # doctest: +SKIP
    >>> sf.tl.embed(more_cells, "my_space", layer="counts", batch_key="sample")  # doctest: +SKIP
    """

    model: Any
    weight: float = 1.0
    validation: Mapping[str, float] = field(default_factory=dict)
    fine_tuned: bool = False
    center: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False)
    length: float = field(default=1.0, repr=False)
    components: OwnComponents | None = field(default=None, repr=False)
    correction: BatchCorrection | None = field(default=None, repr=False)

    @classmethod
    def fit(
        cls,
        model: Any,
        cells: Cells,
        *,
        adapt: Adaptation | None = "components",
        fine_tune: bool = False,
        max_epochs: int | None = None,
        seed: int = 0,
        compute: Compute,
    ) -> tuple[Self, NDArray[np.float32]]:
        """Learn the map, and apply it to the same cells, (n_obs, d).

        The latent alone is what remains where there are no components: of a single cell, or of cells all alike.

        Parameters
        ----------
        model
            Embeds cells.
        cells
            Counts or log1p-normalised values of one AnnData; contexts are its batches.
        adapt
            Set the components of the data beside the latent; the latent alone if `None`.
        fine_tune
            Embed with a copy of the model that learned from these cells first.
        max_epochs
            Most passes of that over the cells; what suits the model if `None`.
        seed
            Of everything random in fine-tuning.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            With ``fine_tune``, if the model has no such training, or no cell has counts.
        """
        if fine_tune:
            model = _fine_tuned(model, cells, max_epochs, seed, compute)
        if adapt is None:
            return cls(model, fine_tuned=fine_tune), model.embed(cells, compute)
        genes = own_genes(cells.source, model.genes.species)  # type: ignore[arg-type]
        components = OwnComponents.fit(cells, genes)
        latent = model.embed(cells, compute)
        placed = cells.by_name[~cells.empty[cells.by_name]]
        if not components.axes.loadings.shape[1] or not len(placed):
            return cls(model, fine_tuned=fine_tune), latent
        weight, validation = latent_weight(model, cells, genes, compute)
        blocks = [placed[start : start + CELLS_PER_BLOCK] for start in range(0, len(placed), CELLS_PER_BLOCK)]
        center = np.sum([latent[rows].sum(0, dtype=np.float64) for rows in blocks], axis=0) / len(placed)
        squares = np.sum([np.square(latent[rows] - center).sum() for rows in blocks])
        fitted = cls(model, weight, validation, fine_tune, center, float(np.sqrt(squares / len(placed))), components)
        scores = components.project(cells)
        if len(components.batches) > 1:
            codes = components.codes(cells)
            rows = at_most(MAX_CELLS, codes, placed, np.random.default_rng(0))
            points = fitted._joined(latent[rows], scores[rows])
            fitted = replace(fitted, correction=BatchCorrection.fit(points, codes[rows]))
        return fitted, fitted._placed(latent, scores, cells)

    def predict(self, cells: Cells, *, compute: Compute) -> NDArray[np.float32]:
        """Where cells lie, (n_obs, d): each where it would have lain in the fit.

        Parameters
        ----------
        cells
            Counts or log1p-normalised values of one AnnData.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If cells are of a batch that was not there in the fit, or share too few genes with it.
        """
        self.require_known_batches(cells)
        latent = self.model.embed(cells, compute)
        return latent if self.components is None else self._placed(latent, self.components.project(cells), cells)

    def require_known_batches(self, cells: Cells) -> None:
        """Refuse cells of a batch that was not there in the fit, by a ValueError."""
        if self.components is not None:
            self.components.codes(cells)

    @property
    def method(self) -> str:
        """What the embedding is made of, for the record."""
        latent = "fine-tuned latent" if self.fine_tuned else "latent"
        if self.components is None:
            return latent
        return f"components and {latent}" if self.weight else "components"

    @property
    def adapt(self) -> Adaptation | None:
        """Adaptation that took place; none of a single cell, or of cells all alike."""
        return None if self.components is None else "components"

    @property
    def adaptation(self) -> dict[str, Any]:
        """What was found in the fit, for the record."""
        n_batches = 0 if self.correction is None else self.correction.offsets.shape[1]
        found = {"latent_weight": self.weight, "n_batches": n_batches}
        return found | ({"explained": dict(self.validation)} if self.validation else {})

    def _placed(self, latent: NDArray[np.float32], scores: NDArray[np.float64], cells: Cells) -> NDArray[np.float32]:
        """Where cells lie, (n, d), block by block: in double precision, all of them together would take much room."""
        codes = self.components.codes(cells)  # type: ignore[union-attr]
        width = scores.shape[1] + (latent.shape[1] if self.weight else 0)
        out = np.empty((len(scores), width), dtype=np.float32)
        for start in range(0, len(out), CELLS_PER_BLOCK):
            rows = slice(start, start + CELLS_PER_BLOCK)
            points = self._joined(latent[rows], scores[rows])
            out[rows] = points if self.correction is None else self.correction.apply(points, codes[rows])
        return out

    def _joined(self, latent: NDArray[np.float32], components: NDArray[np.float64]) -> NDArray[np.float64]:
        """Both on their scales, (n, d)."""
        placed = components / max(self.components.axes.spread, TINY)  # type: ignore[union-attr]
        if not self.weight:
            return placed
        return np.c_[placed, self.weight / max(self.length, TINY) * (latent - self.center)]

    def _stored(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        arrays = {"center": self.center}
        if self.components is not None:
            arrays |= prefixed("components_", self.components.arrays())
        if self.correction is not None:
            arrays |= prefixed("correction_", self.correction.arrays())
        plain = {"weight": self.weight, "fine_tuned": self.fine_tuned, "length": self.length}
        return arrays, plain | {"validation": dict(self.validation)}

    @classmethod
    def _restored(cls, model: Any, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        components, correction = under("components_", arrays), under("correction_", arrays)
        return cls(
            model,
            values["weight"],
            values["validation"],
            values["fine_tuned"],
            arrays["center"],
            values["length"],
            OwnComponents.from_arrays(components, model.genes.species) if components else None,
            BatchCorrection.from_arrays(correction) if correction else None,
        )


def _fine_tuned(model: Any, cells: Cells, max_epochs: int | None, seed: int, compute: Compute) -> FineTunesExpression:
    """Copy of a model that learned from cells, in the order of their names; those without counts teach nothing."""
    tunable: FineTunesExpression = require(model, FineTunesExpression, caller="Embedder.fit")
    otherwise = "Embed them as they are: sf.tl.embed(adata, model, fine_tune=False)."
    learned = expressed(cells, otherwise=otherwise)
    return tunable.fine_tune_expression(learned, max_epochs=max_epochs, seed=seed, compute=compute)
