"""Cells of the corpus as one AnnData in which every cell type of a study has about as many cells as any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["balanced"]

# A cell is shown this often at most, however rare its type is.
MAX_VIEWS = 6


def balanced(corpus: AnnData, *, n_cells: int, rng: np.random.Generator) -> AnnData:
    """About ``n_cells`` views of every type of a study with counts, and all cells that were drawn of a profile.

    Half of the views, or all that the type has cells for, are cells as measured. The others are cells thinned to a
    fifth of their counts at the least, every second of them on the genes of another study or on random ones.
    """
    rows, thin = [], []
    drawn = (corpus.obs["values"] == "means").to_numpy()
    for cells in corpus.obs.groupby(["study", "cell_type"], observed=True).indices.values():
        shuffled = rng.permutation(cells)
        n_views = len(cells) if drawn[cells[0]] else min(n_cells, MAX_VIEWS * len(cells))
        as_measured = len(cells) if drawn[cells[0]] else min(len(cells), n_views // 2)
        rows.append(np.resize(shuffled, n_views))
        thin.append(np.arange(n_views) >= as_measured)
    chosen = np.concatenate(rows)
    views = ad.AnnData(corpus.X[chosen], corpus.obs.iloc[chosen].reset_index(drop=True).rename(index=str), corpus.var)
    panels = corpus.varm["measured"][corpus.obs["study"].unique()].to_numpy().T
    views.X.data = thin_counts(views.X, np.concatenate(thin), panels, rng)
    views.X.eliminate_zeros()
    return views[np.diff(views.X.indptr) > 0].copy()


def thin_counts(
    counts: sparse.csr_matrix, thinned: NDArray[np.bool_], panels: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Values of ``counts`` after some of its rows have been thinned and cut to one of P panels, (P, G)."""
    values = counts.data.copy()
    for row in np.flatnonzero(thinned):
        stored = slice(counts.indptr[row], counts.indptr[row + 1])
        values[stored] = rng.binomial(values[stored].astype(np.int64), rng.uniform(0.2, 1))
        if rng.random() < 0.5:
            panel = panels[rng.integers(len(panels))]
            if rng.random() < 0.5:
                panel = rng.random(counts.shape[1]) < rng.uniform(0.15, 0.7)
            # A panel that leaves nothing was never used on such a cell.
            if (values[stored] * panel[counts.indices[stored]]).sum() >= 20:
                values[stored] *= panel[counts.indices[stored]]
    return values
