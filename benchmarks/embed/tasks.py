"""The labelled data sets on which embeddings are compared. None of them is in the pretraining of the scored weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["DATA_SETS", "DataSet", "Scored"]

LABELS_KEY = "cell_type"
UNLABELLED = "unassigned"


@dataclass(frozen=True)
class Scored:
    """Labels and batches of the cells that take part in the scores.

    Attributes
    ----------
    cells
        Which of all cells these are, (n_obs,) bool.
    labels
        Cell type, (n,).
    batches
        Batch, (n,); one value where there is a single batch.
    """

    cells: NDArray[np.bool_]
    labels: NDArray[np.str_]
    batches: NDArray[np.str_]

    @property
    def has_batches(self) -> bool:
        """Whether there is anything to integrate."""
        return len(np.unique(self.batches)) > 1


@dataclass(frozen=True)
class DataSet:
    """A data set with raw counts in ``X`` and known cell types.

    Attributes
    ----------
    name
        File name without ``.h5ad``.
    batch_key
        Column of ``obs`` to integrate over.
    """

    name: str
    batch_key: str | None = None

    def read(self, folder: Path) -> AnnData:
        """Read all cells, the unlabelled ones included: they are part of the context."""
        path = folder / f"{self.name}.h5ad"
        if not path.exists():
            present = ", ".join(sorted(file.name for file in folder.glob("*.h5ad"))) or "no .h5ad file"
            msg = f"{folder} has no {path.name}; it has {present}. Pass the folder that holds it as DATA_FOLDER."
            raise FileNotFoundError(msg)
        adata = ad.read_h5ad(path)
        adata.X = adata.X.astype(np.float32)
        return adata

    def scored(self, adata: AnnData) -> Scored:
        """Leave out the cells without a label."""
        labels = adata.obs[LABELS_KEY].astype(str).to_numpy()
        batches = adata.obs[self.batch_key].astype(str).to_numpy() if self.batch_key else np.zeros(len(labels), str)
        cells = labels != UNLABELLED
        return Scored(cells, labels[cells], batches[cells])


DATA_SETS = (
    DataSet("pbmc_3tech_1200", batch_key="batch"),
    DataSet("cell_lines_mixology", batch_key="technology"),
    DataSet("pbmc10k_citeseq"),
    DataSet("liver_he_2839"),
    DataSet("pancreas_islet_baron_h1", batch_key="batch"),
)
