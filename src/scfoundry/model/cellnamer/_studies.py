"""Labelled cells of one study, as training reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["LabelledSet"]


@dataclass(frozen=True)
class LabelledSet:
    """Cells of one study.

    Attributes
    ----------
    name
        Name of the study.
    counts
        Counts, or what stands for them, (n, G) float32.
    measured
        Which genes the study measured, (G,) bool.
    labels
        Label of every cell as published, (n,).
    types
        What every label stands for: Cell Ontology ids, or a text that says it.
    """

    name: str
    counts: sparse.csr_matrix
    measured: NDArray[np.bool_]
    labels: NDArray[np.str_]
    types: dict[str, tuple[str, ...]]

    @property
    def is_counts(self) -> bool:
        """Whether values are whole numbers, which can be thinned."""
        return bool(np.all(self.counts.data[:1000] % 1 == 0))

    def subset(self, genes: NDArray[np.int64]) -> LabelledSet:
        """Keep some genes, in the given order."""
        return LabelledSet(self.name, self.counts[:, genes].tocsr(), self.measured[genes], self.labels, self.types)
