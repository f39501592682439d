"""Integration: a copy of a model that learned from the batches at hand, and the genes that it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from scfoundry.model._capabilities import FineTunesIntegration, require
from scfoundry.stats.variable_genes import variable_genes
from scfoundry.tasks._expressed import expressed
from scfoundry.tasks._fitted import Fitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["N_GENES", "Integrator"]

# Published for integration (Cui et al. 2024).
N_GENES = 1200


@dataclass(frozen=True, eq=False)
class Integrator(Fitted):
    """A map of cells of several batches into one space.

    Attributes
    ----------
    model
        Copy that learned from the batches of the fit.
    batches
        Their names, ascending.

    Examples
    --------
    >>> import scfoundry as sf
    >>> integrator = sf.tl.integrate(adata, batch_key="donor", return_fitted=True)  # doctest: +SKIP
    >>> integrator.save("atlas")  # doctest: +SKIP
    >>> sf.tl.integrate(more_cells, batch_key="donor", model="atlas")  # doctest: +SKIP
    """

    model: Any
    batches: tuple[str, ...]
    genes: NDArray[np.int64] = field(repr=False)  # vocabulary positions, ascending

    @classmethod
    def fit(
        cls,
        model: Any,
        cells: Cells,
        *,
        n_genes: int = N_GENES,
        max_epochs: int | None = None,
        seed: int = 0,
        compute: Compute,
    ) -> Self:
        """Learn from the most variable genes of cells, which vary within batches and not for their sake.

        Parameters
        ----------
        model
            One that can be fine-tuned on batches; it stays as it is.
        cells
            Counts of one AnnData; contexts are the batches.
        n_genes
            How many genes of the model are read, those without counts in a cell included.
        max_epochs
            Passes over the cells; what suits the model if `None`.
        seed
            Of everything random.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If the model has no such training, no cell has counts, or there is a single batch.
        """
        tunable: FineTunesIntegration = require(model, FineTunesIntegration, caller="Integrator.fit")
        require_batches(cells)
        ordered = cells.ordered()
        genes = variable_genes([ordered.take(context.rows).reader for context in ordered.contexts], n_genes)
        learned = expressed(cells.only(genes), otherwise="Drop the genes and batches that are empty.")
        require_batches(learned)
        batches = tuple(sorted(context.name for context in learned.contexts))
        how: dict[str, Any] = {"max_epochs": max_epochs, "seed": seed, "compute": compute}
        return cls(tunable.fine_tune_integration(learned, **how), batches, genes)

    def predict(self, cells: Cells, *, compute: Compute) -> NDArray[np.float32]:
        """Where cells lie, (n_obs, d).

        Parameters
        ----------
        cells
            Counts or log1p-normalised values of one AnnData; contexts are batches, which the fit need not know.
        compute
            Where and how precisely.
        """
        return self.model.embed_integrated(cells.only(self.genes), compute)

    def unseen(self, cells: Cells) -> list[str]:
        """Batches that were not there in the fit, ascending."""
        return sorted({context.name for context in cells.contexts} - set(self.batches))

    def _stored(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        return {"genes": self.genes}, {"batches": list(self.batches)}

    @classmethod
    def _restored(cls, model: Any, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        return cls(model, tuple(values["batches"]), arrays["genes"])


def require_batches(cells: Cells) -> None:
    """Refuse cells of a single batch, by a ValueError."""
    if len(cells.contexts) < 2:
        names = ", ".join(repr(context.name) for context in cells.contexts) or "none"
        msg = (
            f"Integration needs cells with counts of at least 2 batches; these are of {names}. Name another column, "
            "batch_key=..., or embed them as they are: sf.tl.embed(adata, model)."
        )
        raise ValueError(msg)
