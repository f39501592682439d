"""Cells turned into model input one by one: block by block, or chunk by chunk of a dask array when that is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from scipy import sparse
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.data.matrix.checks import MatrixReport, MatrixState, inspect_matrix, require_counts
from scfoundry.data.matrix.loaders import locate, matrix_of, row_blocks
from scfoundry.data.matrix.state import LOG_CEILING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import DTypeLike, NDArray

    Encoder = Callable[[Iterable[sparse.csr_matrix]], sparse.csr_matrix]

__all__ = ["Growing", "checked", "encoded"]


def checked(adata: AnnData, layer: str | None, *, caller: str) -> MatrixReport:
    """What a matrix holds, counts or log1p-normalised values; of a dask array, what its first chunk with values does.

    ValueError: if it holds anything else.
    """
    if not is_lazy(adata, layer):
        return require_counts(adata, layer=layer, caller=caller, allow_log1p=True)
    matrix = matrix_of(adata, layer)
    n_chunks, n_across = matrix.numblocks
    for i in range(n_chunks):
        cells = _joined([matrix.blocks[i, j].compute() for j in range(n_across)])
        report = inspect_matrix(cells)
        if report.n_empty < cells.n_obs or report.n_nan or report.n_infinite:
            break
    return require_counts(cells, layer=None, caller=caller, allow_log1p=True)


def encoded(
    adata: AnnData,
    layer: str | None,
    encode: Encoder,
    state: MatrixState,
    *,
    width: int,
    dtype: DTypeLike,
    caller: str,
) -> Any:
    """What ``encode`` makes of blocks of cells, (n_obs, width) CSR; a dask array of such where the matrix is one.

    ``state`` is that of the matrix; chunks that turn out to hold something else are a ValueError when they are read.
    """
    if not is_lazy(adata, layer):
        return encode(_blocks_with_bar(adata, layer, caller))
    import dask.array as da

    where = "adata.X" if layer is None else f'adata.layers["{layer}"]'

    def encode_chunk(chunks: list[Any]) -> sparse.csr_matrix:
        cells = _joined(chunks)
        _check_chunk(cells, state, where, caller)
        return encode(block for _, block in row_blocks(cells))

    meta = sparse.csr_matrix((0, 0), dtype=dtype)
    matrix = matrix_of(adata, layer)
    return da.blockwise(
        encode_chunk, "cr", matrix, "cg", new_axes={"r": width}, concatenate=False, dtype=dtype, meta=meta
    )


def is_lazy(adata: AnnData, layer: str | None) -> bool:
    """Whether a matrix is a dask array."""
    return hasattr(locate(adata, layer)[0], "__dask_graph__")


def _blocks_with_bar(adata: AnnData, layer: str | None, caller: str) -> Iterator[sparse.csr_matrix]:
    name = caller.rpartition(".")[2]
    with tqdm(desc=name, total=adata.n_obs, unit="cell", disable=not settings.show_progress) as bar:
        for _, block in row_blocks(adata, layer=layer):
            yield block
            bar.update(block.shape[0])


def _check_chunk(cells: AnnData, state: MatrixState, where: str, caller: str) -> None:
    """Refuse a chunk that does not hold what the first one did."""
    report = inspect_matrix(cells)
    not_finite = report.n_nan + report.n_infinite
    # What proves logarithms may be absent from a chunk of few values; what rules them out may not be there.
    may_be_logarithms = report.state is not MatrixState.COUNTS and 0 <= report.maximum <= LOG_CEILING
    fits = report.state is state or report.maximum == 0 or (state is MatrixState.LOG1P and may_be_logarithms)
    if fits and not report.n_negative and not not_finite:
        return
    found = f"{not_finite:,} NaN or infinite values" if not_finite else f"{report.state}, up to {report.maximum:.3g}"
    msg = (
        f"{caller}: the first cells hold {state}, but a chunk of {cells.n_obs:,} cells further on holds {found}. "
        f"Find out which: for chunk in {where}.blocks.ravel(): print(chunk.compute().max())"
    )
    raise ValueError(msg)


def _joined(chunks: list[Any]) -> AnnData:
    """Cells whose genes are spread over several chunks."""
    return AnnData(sparse.hstack(chunks, format="csr") if sparse.issparse(chunks[0]) else np.hstack(chunks))


class Growing:
    """An array that grows at its end, in place where the system can: it never lies in memory twice."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._values, self._n = np.empty(0, dtype), 0

    def extend(self, values: NDArray[Any]) -> None:
        """Append values."""
        end = self._n + len(values)
        if end > len(self._values):
            self._values.resize(max(end, len(self._values) * 33 // 32), refcheck=False)
        self._values[self._n : end] = values
        self._n = end

    def values(self) -> NDArray[Any]:
        """All that was appended; nothing can be, afterwards."""
        self._values.resize(self._n, refcheck=False)
        return self._values
