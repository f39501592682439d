"""Cells and genes of truth and prediction: matched by name where names are known, made dense one block at a time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["align", "blocks", "by_gene", "dense", "in_memory", "labelled_cells", "require_same_cells"]

# Values made dense at once: 32 MB in double precision.
_BLOCK_VALUES = 2**22


def in_memory(values: Any) -> Any:
    """Compute a dask array; anything else is returned as it is."""
    # dask is optional, and none of its arrays can exist before it has been imported.
    dask = sys.modules.get("dask")
    return values.compute() if dask is not None and dask.is_dask_collection(values) else values


def align(reference: Any, other: Any, *, names: tuple[str, str]) -> Any:
    """Bring `other` into the cells and genes of `reference`.

    Two data frames are matched by name: the cells must be the same, genes that only `other` has are left out. Anything
    else must have the same shape already.
    """
    first, second = names
    if np.ndim(reference) != 2:
        msg = f"{first} has {np.ndim(reference)} dimension(s), but must be cells x genes: {first}.reshape(n_cells, -1)."
        raise ValueError(msg)
    if isinstance(reference, pd.DataFrame) and isinstance(other, pd.DataFrame):
        require_same_cells(reference, other, names=names)
        return by_gene(other, reference.columns, names=names)
    if np.shape(reference) != np.shape(other):
        msg = (
            f"{second} has shape {np.shape(other)} but {first} has {np.shape(reference)}; both must be cells x genes "
            "with the same cells and genes. Data frames with named genes are matched by name."
        )
        raise ValueError(msg)
    return other


def by_gene(values: Any, genes: pd.Index, *, names: tuple[str, str]) -> Any:
    """Values of a data frame or series in the order of the genes; ``names``: of what has the genes, of the values."""
    first, second = names
    axis = "columns" if isinstance(values, pd.DataFrame) else "index"
    labels = getattr(values, axis)
    for name, found, of in ((first, genes, "columns"), (second, labels, axis)):
        if not found.is_unique:
            repeated = found[found.duplicated()].unique()
            kept = f"~{name}.index.duplicated()" if of == "index" else f":, ~{name}.columns.duplicated()"
            msg = (
                f"{len(repeated)} gene names occur more than once in {name}, for example {repeated[0]!r}, so genes "
                f"cannot be matched by name. Keep one of each: {name}.loc[{kept}]."
            )
            raise ValueError(msg)
    absent = genes.difference(labels, sort=False)
    if len(absent):
        msg = (
            f"{second} lacks {len(absent)} of the {len(genes)} genes of {first}: "
            f"{', '.join(map(str, absent[:5]))}{', ...' if len(absent) > 5 else ''}. Score the shared ones: "
            f"{first} = {first}[{first}.columns.intersection({second}.{axis})]."
        )
        raise ValueError(msg)
    return values if labels.equals(genes) else values[genes]


def require_same_cells(reference: Any, other: Any, *, names: tuple[str, str]) -> None:
    """Refuse two pandas objects whose cells differ in name or order; anything else has no names."""
    named = isinstance(reference, pd.DataFrame | pd.Series) and isinstance(other, pd.DataFrame | pd.Series)
    if named and not reference.index.equals(other.index):
        first, second = names
        msg = (
            f"{first} and {second} are not indexed by the same cells in the same order. "
            f"Bring them in line: {second} = {second}.loc[{first}.index]."
        )
        raise ValueError(msg)


def labelled_cells(truth: pd.Series) -> pd.Series:
    """Which cells have a true label; refused where none has."""
    labelled = truth.notna()
    if not labelled.any():
        msg = f"None of the {len(labelled)} cells has a label in truth. Pass the column of obs that holds the labels."
        raise ValueError(msg)
    return labelled


def blocks(*matrices: Any, axis: int) -> Iterator[tuple[Any, ...]]:
    """Consecutive slices of matrices of one shape, along cells (``axis=0``) or genes (``axis=1``)."""
    layout = "csr" if axis == 0 else "csc"
    arrays = [m.asformat(layout) if sparse.issparse(m) else np.asarray(m) for m in matrices]
    n, across = arrays[0].shape[axis], arrays[0].shape[1 - axis]
    step = max(1, _BLOCK_VALUES // max(1, across))
    for start in range(0, n, step):
        part = slice(start, start + step)
        yield tuple(array[part] if axis == 0 else array[:, part] for array in arrays)


def dense(block: Any, *, name: str) -> NDArray[np.float64]:
    """A block as a dense array in double precision, refused where it holds missing values."""
    values = np.asarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float64)
    if not np.isfinite(values).all():
        msg = (
            f"{name} holds missing or infinite values, which no score can average. Find them with "
            f"np.argwhere(~np.isfinite({name})) and leave those cells or genes out."
        )
        raise ValueError(msg)
    return values
