"""Sets whose types are of very unequal size, divided into cells to learn from and cells to name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["GROUPS", "LABEL", "SETS", "Split", "split"]

LABEL = "label"
# File, the column with its labels, and how many times larger the largest label is made than the smallest.
SETS: dict[str, tuple[str, str, float | None]] = {
    "breast tumour, immune": ("breast_tumour_immune_1000", "cell_type", None),
    "pancreatic tumour": ("pdac_a_indrop", "cell_type", None),
    "breast tumour, minor types": ("breast_cancer_wu_cid4465", "cell_type_minor", None),
    "blood, surface proteins, 100:1": ("pbmc10k_citeseq", "cell_type", 100.0),
    "pancreas islets": ("pancreas_islet_baron_h1", "cell_type", None),
    "mouse cortex, 33 genes": ("osmfish_cortex_mouse", "cell_type", None),
}
GROUPS = ("head", "medium", "tail")
# Cells of a label that is scored: one to learn from and one to name.
LEAST_CELLS = 2


@dataclass(frozen=True)
class Split:
    """Cells to learn from and cells to name, raw counts with ``obs["label"]``, of the same labels."""

    name: str
    reference: AnnData
    query: AnnData

    @property
    def sizes(self) -> pd.Series:
        """Cells of every label that are learned from, largest first."""
        return self.reference.obs[LABEL].value_counts()

    @property
    def groups(self) -> pd.Series:
        """Whether a label is of the largest third, the middle one or the smallest."""
        thirds = np.array_split(np.arange(len(self.sizes)), len(GROUPS))
        return pd.Series(np.repeat(GROUPS, [len(third) for third in thirds]), self.sizes.index)

    @property
    def described(self) -> dict[str, int | str]:
        """Numbers of cells and labels."""
        sizes = {"reference": self.reference.n_obs, "query": self.query.n_obs, "labels": len(self.sizes)}
        return {"set": self.name, **sizes, "largest": int(self.sizes.max()), "smallest": int(self.sizes.min())}


def split(folder: Path, name: str, seed: int) -> Split:
    """Half of the cells of every label to learn from, at random, fewer where sizes are made more unequal."""
    stem, column, ratio = SETS[name]
    adata = ad.read_h5ad(folder / f"{stem}.h5ad")
    adata.X = adata.X.astype(np.float32)
    labels = adata.obs[column].astype(str)
    scored = (labels != "unassigned") & (labels.map(labels.value_counts()) >= LEAST_CELLS)
    adata = adata[scored.to_numpy()].copy()
    adata.obs = pd.DataFrame({LABEL: labels[scored].to_numpy()}, index=adata.obs_names)
    rows = np.random.default_rng(seed).permutation(adata.n_obs)
    place = adata.obs[LABEL].iloc[rows].groupby(adata.obs[LABEL].iloc[rows]).cumcount().to_numpy()
    half = (adata.obs[LABEL].map(adata.obs[LABEL].value_counts()).iloc[rows].to_numpy() + 1) // 2
    learned, named = rows[place < half], rows[place >= half]
    if ratio is not None:
        learned = _unequal(adata.obs[LABEL].to_numpy()[learned], ratio, learned)
    return Split(name, adata[np.sort(learned)].copy(), adata[np.sort(named)].copy())


def _unequal(labels: NDArray[np.str_], ratio: float, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that are kept so that sizes fall in equal steps of their logs from the largest label to the smallest."""
    sizes = pd.Series(labels).value_counts()
    wanted = sizes.iloc[0] * ratio ** -np.linspace(0, 1, len(sizes))
    kept = pd.Series(np.minimum(np.ceil(wanted).astype(int), sizes), sizes.index)
    place = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    return rows[place < kept[labels].to_numpy()]
