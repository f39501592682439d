"""Embedding: the latent of a model, the components of the data at hand, and what sets their batches apart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from scfoundry.model._capabilities import FineTunesExpression, require
from scfoundry.stats.batch_correction import BatchCorrection
from scfoundry.stats.splits import at_most
from scfoundry.tasks._expressed import expressed
from scfoundry.tasks._fitted import Fitted, prefixed, under
from scfoundry.tasks.embedding.kept import InMemory
from scfoundry.tasks.embedding.latent_weight import latent_weight
from scfoundry.tasks.embedding.own_components import OwnComponents, own_genes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.embedding.kept import Rows

__all__ = ["Adaptation", "Embedder"]

# Cells that the batch correction learns from, at most.
MAX_CELLS = 20_000
TINY = 1e-12
CELLS_PER_BLOCK = 16_384

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
        kept: InMemory | None = None,
    ) -> tuple[Self, Rows]:
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
        kept
            Where rows are kept that do not fit in memory; an array of all of them if `None`.

        Raises
        ------
        ValueError
            With ``fine_tune``, if the model has no such training, or no cell has counts.
        """
        kept = kept or InMemory()
        if fine_tune:
            model = kept.model(partial(_fine_tuned, model, cells, max_epochs, seed, compute))
        latent = kept.latent(model, cells, compute)
        fitted = cls(model, fine_tuned=fine_tune)
        if adapt is not None:
            fitted = kept.fitted(cls, model, partial(fitted._adapted, latent, cells, compute))
        return fitted, fitted._placed(latent, cells, kept)

    def _adapted(self, latent: Rows, cells: Cells, compute: Compute) -> Self:
        """The same with components, on the scales of both, and a correction of batches."""
        genes = own_genes(cells.source, self.model.genes.species)  # type: ignore[arg-type]
        components = OwnComponents.fit(cells, genes)
        placed = cells.by_name[~cells.empty[cells.by_name]]
        if not components.axes.loadings.shape[1] or not len(placed):
            return self
        weight, validation = latent_weight(self.model, cells, genes, compute)
        center, length = _scale(latent, placed)
        fitted = replace(
            self, weight=weight, validation=validation, center=center, length=length, components=components
        )
        if len(components.batches) == 1:
            return fitted
        codes = components.codes(cells)
        rows = at_most(MAX_CELLS, codes, placed, np.random.default_rng(0))
        stored = np.sort(rows)  # disks are read from front to back
        points = fitted._joined(latent[stored], components.project(cells.take(stored)))
        points = points[np.searchsorted(stored, rows)]
        return replace(fitted, correction=BatchCorrection.fit(points, codes[rows]))

    def predict(self, cells: Cells, *, compute: Compute, kept: InMemory | None = None) -> Rows:
        """Where cells lie, (n_obs, d): each where it would have lain in the fit.

        Parameters
        ----------
        cells
            Counts or log1p-normalised values of one AnnData.
        compute
            Where and how precisely.
        kept
            Where rows are kept that do not fit in memory; an array of all of them if `None`.

        Raises
        ------
        ValueError
            If cells are of a batch that was not there in the fit, or share too few genes with it.
        """
        self.require_known_batches(cells)
        kept = kept or InMemory()
        return self._placed(kept.latent(self.model, cells, compute), cells, kept)

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

    def _placed(self, latent: Rows, cells: Cells, kept: InMemory) -> Rows:
        if self.components is None:
            return latent
        codes = self.components.codes(cells)
        return kept.rows(cells.n_obs, lambda wanted: self._points(latent, cells, codes, wanted))

    def _points(
        self, latent: Rows, cells: Cells, codes: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Some rows after others, and where their cells lie, (n, d)."""
        for rows, scores in self.components.parts(cells, wanted):  # type: ignore[union-attr]
            points = self._joined(latent[rows], scores)
            if self.correction is not None:
                points = self.correction.apply(points, codes[rows])
            yield rows, points.astype(np.float32)

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


def _scale(latent: Rows, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Mean of some rows, and the root mean squared distance from it, some rows at a time."""
    blocks = [rows[start : start + CELLS_PER_BLOCK] for start in range(0, len(rows), CELLS_PER_BLOCK)]
    center = sum(latent[block].sum(0, dtype=np.float64) for block in blocks) / len(rows)
    squares = sum(float(np.square(latent[block] - center).sum()) for block in blocks)
    return np.asarray(center), float(np.sqrt(squares / len(rows)))
