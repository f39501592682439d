"""Results into an AnnData: all of them or none, and none that cannot be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.unfinished import RowsOnDisk

__all__ = ["refuse_meaningless", "refuse_not_finite", "write"]

# A few cells may be alike: from how many on one embedding for all is none, and by what share of a gene they differ.
FEWEST, DIFFERENT = 10, 0.01
CELLS_PER_BLOCK = 2**17


def write(
    adata: AnnData, results: Mapping[str, Any], *, caller: str, undefined: NDArray[np.bool_] | None = None
) -> None:
    """Write results by address (``"obsm/X_pca"``); `None` takes away what an earlier call left there.

    Whatever ends this before all is written, an interruption too, leaves everything as it was. ValueError: if a result
    holds NaN or infinite values, of other cells than those ``undefined`` (n_obs,); then nothing is written.
    """
    for address, value in results.items():
        if not address.startswith("uns/"):
            defined = value if undefined is None else np.asarray(value)[~undefined]
            refuse_not_finite(defined, f"adata.{address.replace('/', '[', 1)}]", caller=caller)
    before = {address: _value(adata, address) for address in results}
    try:
        for address, value in results.items():
            _put(adata, address, value)
    except BaseException:
        for address, value in before.items():
            _put(adata, address, value)
        raise


def refuse_not_finite(values: Any, what: str, *, caller: str) -> None:
    """Refuse numbers of which some are NaN or infinite."""
    if isinstance(values, pd.DataFrame):
        values = values.to_numpy()
    values = values.data if sparse.issparse(values) else values
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and not np.isfinite(values).all():
        share = float(np.mean(~np.isfinite(values)))
        msg = (
            f"{caller}: {share:.2%} of {what} would be NaN or infinite, and nothing is written. The weights are "
            "damaged, their training diverged, or counts are beyond what they can read. Compare with weights that "
            "ship, sf.model.list_pretrained(), and print(adata.X.max())."
        )
        raise ValueError(msg)


def refuse_meaningless(embedding: NDArray[np.float32] | RowsOnDisk, cells: Cells, *, caller: str) -> None:
    """Refuse an embedding, (n_obs, d), that is not finite, or the same for many cells of different composition."""
    low, high = np.inf, -np.inf
    for start in range(0, len(embedding), CELLS_PER_BLOCK):
        block = embedding[start : start + CELLS_PER_BLOCK]
        refuse_not_finite(block, "the embedding", caller=caller)
        low, high = np.minimum(low, block.min(0, initial=np.inf)), np.maximum(high, block.max(0, initial=-np.inf))
    if len(embedding) < FEWEST or not np.size(low) or np.any(high > low):
        return
    counts = next(iter(cells.blocks()))[:100].toarray()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if np.ptp(shares, axis=0).max(initial=0) > DIFFERENT:
        msg = (
            f"{caller}: all {len(embedding):,} cells have the same embedding, though their counts differ. The weights "
            "are damaged, or were never trained. Compare with weights that ship, sf.model.list_pretrained()."
        )
        raise ValueError(msg)


def _value(adata: AnnData, address: str) -> Any:
    slot, _, key = address.partition("/")
    return getattr(adata, slot).get(key)


def _put(adata: AnnData, address: str, value: Any) -> None:
    slot, _, key = address.partition("/")
    if value is not None:
        getattr(adata, slot)[key] = value
    elif key in getattr(adata, slot):
        del getattr(adata, slot)[key]
