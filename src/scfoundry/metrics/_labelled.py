"""An embedding and the labels of its cells, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scfoundry._arguments import quoted

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["Labelled", "labelled"]


class Labelled(NamedTuple):
    """Cells that have a label."""

    embedding: NDArray[np.floating]  # (n, d)
    labels: NDArray[np.int64]  # number of the label, (n,)
    names: list[str]  # of the labels
    rows: NDArray[np.int64]  # of the cells, (n,)


def labelled(adata: AnnData, use_rep: str, labels_key: str) -> Labelled:
    """Embedding and labels of the cells that have one; a ValueError says what is missing or wrong."""
    for key, slot, where in ((use_rep, adata.obsm, "obsm"), (labels_key, adata.obs.columns, "obs")):
        if key not in slot:
            present = quoted(slot)
            msg = f"adata.{where} has no {key!r}; its keys: {present}. Pass one of them as " + (
                "use_rep, or make it first: sf.tl.embed(adata)." if where == "obsm" else "labels_key."
            )
            raise ValueError(msg)
    codes, names = pd.factorize(np.asarray(adata.obs[labels_key]))
    rows = np.flatnonzero(codes >= 0)
    embedding = np.asarray(adata.obsm[use_rep])[rows]
    if len(names) < 2:
        msg = (
            f"adata.obs[{labels_key!r}] holds {len(names)} different labels; at least 2 are needed to compare "
            "with. Pass the column with the cell types as labels_key."
        )
        raise ValueError(msg)
    if not np.isfinite(embedding).all():
        n_bad = int((~np.isfinite(embedding).all(axis=1)).sum())
        msg = (
            f"{n_bad} cells have missing or infinite values in adata.obsm[{use_rep!r}]. Drop them with "
            f'adata = adata[np.isfinite(adata.obsm["{use_rep}"]).all(axis=1)].copy().'
        )
        raise ValueError(msg)
    return Labelled(embedding, codes[rows].astype(np.int64), [str(name) for name in names], rows)
