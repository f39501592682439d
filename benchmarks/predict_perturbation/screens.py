"""Screens with half of the controls kept back for the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Screen", "read"]

TARGET_SUM = 1e4
LEAST_CELLS = 10


@dataclass(frozen=True)
class Screen:
    """Cells with their perturbation and group.

    Attributes
    ----------
    adata
        Counts.
    log
        log1p of counts per 10,000, (n_obs, n_vars).
    perturbation_key, control, group_key
        How ``obs`` says what was done to which cells.
    shown
        Cells that methods see; the others are controls for the truth.
    """

    adata: ad.AnnData
    log: Array
    perturbation_key: str
    control: str
    group_key: str
    shown: NDArray[np.bool_]

    @property
    def perturbations(self) -> NDArray[np.str_]:
        """Perturbation of every cell."""
        return self.adata.obs[self.perturbation_key].to_numpy().astype(str)

    @property
    def groups(self) -> NDArray[np.str_]:
        """Group of every cell."""
        return self.adata.obs[self.group_key].to_numpy().astype(str)

    def cells(self, perturbation: str, group: str) -> NDArray[np.bool_]:
        """Cells of a condition."""
        return (self.perturbations == perturbation) & (self.groups == group)

    def start(self, group: str) -> Array:
        """Mean of the controls that methods see."""
        return self.log[self.cells(self.control, group) & self.shown].mean(0)

    def change(self, perturbation: str, group: str) -> Array:
        """Measured change from the controls that methods see."""
        return self.log[self.cells(perturbation, group)].mean(0) - self.start(group)

    def halved(self, seed: int) -> Screen:
        """The same with half of the controls of every group kept back."""
        rng = np.random.default_rng(seed)
        shown = np.ones(self.adata.n_obs, dtype=bool)
        for group in np.unique(self.groups):
            controls = rng.permutation(np.flatnonzero(self.cells(self.control, group)))
            shown[controls[len(controls) // 2 :]] = False
        return Screen(self.adata, self.log, self.perturbation_key, self.control, self.group_key, shown)

    def restricted(self, keep: NDArray[np.bool_]) -> Screen:
        """Some of the cells."""
        return Screen(
            self.adata[keep].copy(),
            self.log[keep],
            self.perturbation_key,
            self.control,
            self.group_key,
            self.shown[keep],
        )


def read(path: Path, perturbation_key: str, control: str, group_key: str) -> Screen:
    """Read a file; groups with fewer than ten cells of any condition they have, or without controls, are left out."""
    adata = ad.read_h5ad(path)
    adata.X = adata.X.astype(np.float32)
    counts = adata.obs.groupby([group_key, perturbation_key], observed=True).size()
    large = {
        group
        for group, sizes in counts.groupby(level=0, observed=True)
        if sizes.min() >= LEAST_CELLS and (group, control) in sizes.index and len(sizes) > 1
    }
    adata = adata[adata.obs[group_key].isin(large - {"unassigned"})].copy()
    scaled = adata.X.multiply(TARGET_SUM / np.asarray(adata.X.sum(1)).clip(1)).toarray()
    log = np.log1p(scaled.astype(np.float64))
    return Screen(adata, log, perturbation_key, control, group_key, np.ones(adata.n_obs, dtype=bool))
