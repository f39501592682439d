"""Cells turned into model input one by one: block by block, or chunk by chunk of a dask array when that is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from anndata import AnnData
from scipy import sparse
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry._workers import Workers
from scfoundry.data.matrix.checks import (
    MatrixState,
    Taker,
    inspect_matrix,
    inspected,
    read_checked,
    require_cells,
    require_counts,
    require_usable,
)
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.matrix.located import LocatedMatrix, locate, matrix_of
from scfoundry.data.matrix.state import LOG_CEILING, Inspection

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike

__all__ = ["encoded"]


class Encoder(Taker, Protocol):
    """What turns cells into model input."""

    def result(self) -> sparse.csr_matrix:
        """Input of all cells that were added, once there are no more."""


def encoded(
    adata: AnnData,
    layer: str | None,
    begin: Callable[[MatrixState], Encoder],
    *,
    width: int,
    dtype: DTypeLike,
    caller: str,
    distribute: bool = False,
) -> tuple[MatrixState, Any]:
    """What a matrix holds and what is made of its cells, (n_obs, width) CSR; a dask array of such where it is one.

    ``begin`` makes an encoder of values of a kind. ``distribute``: by the workers of the active client. Chunks that
    turn out to hold something else than the first one are a ValueError when they are read, everything else that is
    neither counts nor log1p-normalised values at once.
    """
    if distribute:
        workers, located = Workers.active(caller=caller), LocatedMatrix.of(adata, layer)
        return _encoded_by_workers(workers, adata, located, layer, begin, caller=caller)
    if not is_lazy(adata, layer):
        name = caller.rpartition(".")[2]
        with tqdm(desc=name, total=adata.n_obs, unit="cell", disable=not settings.show_progress) as bar:
            how: dict[str, Any] = {"layer": layer, "caller": caller, "allow_log1p": True}
            located = LocatedMatrix.of(adata, layer)
            report, encoder = read_checked(adata, located, begin, **how, progress=bar.update)
        return report.state, encoder.result()
    import dask.array as da

    where = "adata.X" if layer is None else f'adata.layers["{layer}"]'
    state = _state_of_first(adata, layer, caller=caller)

    def encode_chunk(chunks: list[Any]) -> sparse.csr_matrix:
        cells = _joined(chunks)
        _check_chunk(cells, state, where, caller)
        encoder = begin(state)
        for _, block in row_blocks(cells):
            encoder.add(block)
        return encoder.result()

    meta = sparse.csr_matrix((0, 0), dtype=dtype)
    matrix = matrix_of(adata, layer)
    return state, da.blockwise(
        encode_chunk, "cr", matrix, "cg", new_axes={"r": width}, concatenate=False, dtype=dtype, meta=meta
    )


def _encoded_by_workers(
    workers: Workers,
    adata: AnnData,
    located: LocatedMatrix,
    layer: str | None,
    begin: Callable[[MatrixState], Encoder],
    *,
    caller: str,
) -> tuple[MatrixState, sparse.csr_matrix]:
    """What the matrix holds and what is made of its cells, each of which a worker reads once."""
    require_cells(adata, caller)
    parts = [located.apart(rows) for rows in workers.spans(located.n_obs)]
    inspections, encoded_parts = map(list, zip(*workers.map(_encoded_as_found, parts, begin), strict=True))
    report = Inspection.merged(inspections).report()
    require_usable(adata, report, layer=layer, caller=caller, allow_log1p=True)
    # By themselves some cells may have looked otherwise than all do.
    fits = [
        rows is not None and inspection.found[0] is report.state
        for inspection, rows in zip(inspections, encoded_parts, strict=True)
    ]
    otherwise = np.flatnonzero(~np.array(fits))
    again = workers.map(_encoded, (parts[i] for i in otherwise), begin, report.state)
    for i, rows in zip(otherwise, again, strict=True):
        encoded_parts[i] = rows
    return report.state, sparse.vstack(encoded_parts, format="csr")


def _encoded_as_found(
    located: LocatedMatrix, begin: Callable[[MatrixState], Encoder]
) -> tuple[Inspection, sparse.csr_matrix | None]:
    """In a worker, in one pass: what some cells hold, and what is made of them if all hold the same."""
    inspection, encoder = inspected(located, begin)
    return inspection, encoder and encoder.result()


def _encoded(located: LocatedMatrix, begin: Callable[[MatrixState], Encoder], state: MatrixState) -> sparse.csr_matrix:
    """In a worker."""
    encoder = begin(state)
    for block in located.blocks():
        encoder.add(block)
    return encoder.result()


def is_lazy(adata: AnnData, layer: str | None) -> bool:
    """Whether a matrix is a dask array."""
    return hasattr(locate(adata, layer)[0], "__dask_graph__")


def _state_of_first(adata: AnnData, layer: str | None, *, caller: str) -> MatrixState:
    """What the first chunk with values of a dask array holds: counts or log1p-normalised values."""
    matrix = matrix_of(adata, layer)
    n_chunks, n_across = matrix.numblocks
    for i in range(n_chunks):
        cells = _joined([matrix.blocks[i, j].compute() for j in range(n_across)])
        report = inspect_matrix(cells)
        if report.n_empty < cells.n_obs or report.n_nan or report.n_infinite:
            break
    return require_counts(cells, layer=None, caller=caller, allow_log1p=True).state


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
