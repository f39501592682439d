"""Pathways: labels of which a cell may have several, learned with any model that embeds (cf. Zhao et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from scipy.special import expit

from scfoundry.model._capabilities import Embeds, FineTunesPathways, can, require
from scfoundry.stats.softmax_regression import softmax_regression
from scfoundry.tasks._fitted import Fitted
from scfoundry.tasks.annotation.features import CellFeatures, LinearHead

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["Pathways", "check_learning"]

Train = Literal["all", "head"]

# Of two classes whose weights are opposite; of their difference it is 1.
RIDGE = 2.0


def check_learning(model: Any, *, train: Train, max_epochs: int | None) -> bool:
    """Whether a model learns pathways by its own published fine-tuning.

    Raises `ValueError` if epochs are asked of heads, or all weights are to be trained of a model that has no way to.
    """
    published = can(model, FineTunesPathways)
    own = train == "all" and published
    if not own and (train == "all" or max_epochs is not None):
        more = ', or fine-tune all weights: train="all"' if published else ""
        msg = (
            f"The weights {model.provenance['weights']!r} stay as they are: a head on them is fitted until it is "
            f"best, without epochs; got train={train!r}, max_epochs={max_epochs}. Leave both out{more}."
        )
        raise ValueError(msg)
    return own


@dataclass(frozen=True, eq=False)
class Pathways(Fitted):
    """What a model has learned of pathways that are active in cells.

    Attributes
    ----------
    model
        The model that was given, or the copy of it that was fine-tuned.
    names
        P pathways.
    genes
        Vocabulary positions of the genes that it was learned from.
    n_cells
        Cells in which each pathway was active, (P,).

    Examples
    --------
    >>> import scfoundry as sf
    >>> pathways = sf.tl.identify_pathways(adata, reference, pathways_key="active", return_fitted=True)
    >>> pathways.save("my_pathways")
    >>> sf.tl.identify_pathways(other, model="my_pathways")
    """

    model: Any
    names: tuple[str, ...]
    genes: NDArray[np.int64]
    n_cells: NDArray[np.int64]
    _heads: LinearHead | None = field(repr=False)  # one logistic regression per pathway

    @classmethod
    def fit(
        cls,
        model: Any,
        reference: Cells,
        targets: pd.DataFrame,
        *,
        query: Cells | None = None,
        train: Train = "head",
        max_epochs: int | None = None,
        seed: int = 0,
        compute: Compute,
    ) -> Self:
        """Learn which pathways are active; the model stays as it is.

        Parameters
        ----------
        model
            Any that embeds.
        reference
            Cells to learn from.
        targets
            0 or 1 for every cell and pathway, (n_obs, P), both of them for every pathway.
        query
            Cells to annotate: axes along which cells differ are found by them, too.
        train
            A ``"head"``, or ``"all"`` weights as the model's authors published.
        max_epochs
            Passes over the cells, for ``train="all"``; the published number if `None`.
        seed
            Of everything random.
        compute
            Where and how precisely.

        Raises
        ------
        ValueError
            If the model cannot learn so.
        """
        require(model, Embeds, caller="Pathways.fit")
        own = check_learning(model, train=train, max_epochs=max_epochs)
        genes = reference.measured if query is None else np.intersect1d(reference.measured, query.measured)
        heads = None
        if own:
            model = model.fine_tune_pathways(reference, targets, max_epochs=max_epochs, seed=seed, compute=compute)
        else:
            features, values = CellFeatures.fit(model, reference, query, genes, compute)
            order = reference.by_name
            inputs = values[order].astype(np.float64)
            active = targets.to_numpy(dtype=np.int64)[order]
            fitted = [softmax_regression(inputs, of_pathway, 2, ridge=RIDGE) for of_pathway in active.T]
            weights = np.stack([weights[:, 1] - weights[:, 0] for weights, _ in fitted], axis=1)
            heads = LinearHead(weights, np.array([bias[1] - bias[0] for _, bias in fitted]), features)
        return cls(model, tuple(map(str, targets.columns)), genes, targets.sum().to_numpy(dtype=np.int64), heads)

    def predict(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Probability that each pathway is active in each cell, each on its own, float32, (n_obs, P).

        All 0 for cells that express no gene of the model.
        """
        if self._heads is None:
            probabilities = self.model.pathway_probabilities(cells, compute)
        else:
            probabilities = expit(self._heads.logits(self.model, cells, compute)[0]).astype(np.float32)
        return np.where(cells.empty[:, None], np.float32(0), probabilities)

    def _stored(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        heads = {} if self._heads is None else self._heads.arrays()
        return {"genes": self.genes, "n_cells": self.n_cells} | heads, {"names": list(self.names)}

    @classmethod
    def _restored(cls, model: Any, arrays: Mapping[str, NDArray], values: Mapping[str, Any]) -> Self:
        heads = LinearHead.from_arrays(arrays) if "weights" in arrays else None
        return cls(model, tuple(values["names"]), arrays["genes"], arrays["n_cells"], heads)
