"""Refuse a matrix that a model cannot read, and say which line makes it readable."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

from scfoundry._compat import layer_names
from scfoundry._settings import logger
from scfoundry.data.matrix.located import LocatedMatrix, locate
from scfoundry.data.matrix.state import Inspection, MatrixReport, MatrixState, inspect_matrix, to_linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from scfoundry._workers import Workers

__all__ = [
    "MatrixReport",
    "MatrixState",
    "Taker",
    "inspect_matrix",
    "inspected",
    "read_checked",
    "report_by_workers",
    "require_cells",
    "require_counts",
    "require_usable",
    "to_linear",
]

T = TypeVar("T", bound="Taker")

_COUNT_LAYERS = ("counts", "raw_counts", "raw", "count", "umi", "umis", "spliced")
"""Names under which people keep raw counts, most telling first."""


def require_counts(adata: AnnData, *, layer: str | None = None, caller: str, allow_log1p: bool = False) -> MatrixReport:
    """Report on a matrix (`inspect_matrix`) that holds raw counts, or log1p-normalised values if these are allowed.

    Anything else, NaN and infinite values, and an empty matrix are refused, with the line that makes it readable. Cells
    without any count are reported in the log, not refused. ``caller`` is the user's function: ``"sf.tl.embed"``.
    """
    require_cells(adata, caller)
    report = inspect_matrix(adata, layer=layer)
    require_usable(adata, report, layer=layer, caller=caller, allow_log1p=allow_log1p)
    return report


class Taker(Protocol):
    """What takes in blocks of consecutive cells, columns as in the data set."""

    def add(self, block: sparse.csr_matrix) -> None:
        """Take in the next cells; the block is not changed."""


def read_checked(
    adata: AnnData,
    located: LocatedMatrix,
    begin: Callable[[MatrixState], T],
    *,
    layer: str | None = None,
    caller: str,
    allow_log1p: bool = False,
    progress: Callable[[int], object] = lambda n_cells: None,
) -> tuple[MatrixReport, T]:
    """Check as `require_counts` does, and hand all cells on in the same pass.

    ``located``: the values of ``layer``. ``begin`` makes what takes them in, given what the first cells hold. Where
    later ones show that the matrix holds something else, it is begun again, and the cells are read a second time.
    ``progress`` is told how many were read.
    """
    require_cells(adata, caller)
    inspection, taker = inspected(located, begin, progress)
    report = inspection.report()
    require_usable(adata, report, layer=layer, caller=caller, allow_log1p=allow_log1p)
    if taker is None:
        taker = begin(report.state)
        for block in located.blocks():
            taker.add(block)
    return report, taker


def inspected(
    located: LocatedMatrix, begin: Callable[[MatrixState], T], progress: Callable[[int], object] = lambda n_cells: None
) -> tuple[Inspection, T | None]:
    """What the values of some cells are, and what took these in: `None` where not all are of one kind."""
    inspection = Inspection(located.n_obs, located.n_vars)
    state: MatrixState | None = None
    taker: T | None = None
    for block in located.blocks():
        inspection.add(block)
        found, _ = inspection.found
        if state is None and found in (MatrixState.COUNTS, MatrixState.LOG1P):
            state, taker = found, begin(found)
        if taker is not None and found is state:
            taker.add(block)
        else:
            state, taker = found, None
        progress(block.shape[0])
    return inspection, taker


def report_by_workers(
    adata: AnnData, parts: Iterable[Any], workers: Workers, *, layer: str | None, caller: str, allow_log1p: bool
) -> MatrixReport:
    """Check as `require_counts` does, part by part: where these lie, or what `inspected` gave of them in a worker."""
    require_cells(adata, caller)
    report = Inspection.merged(workers.map(_inspection, parts)).report()
    require_usable(adata, report, layer=layer, caller=caller, allow_log1p=allow_log1p)
    return report


def _inspection(part: LocatedMatrix | tuple[Inspection, Any]) -> Inspection:
    """In a worker, which may have found it before: what the values of some cells are."""
    if isinstance(part, tuple):
        return part[0]
    inspection = Inspection(part.n_obs, part.n_vars)
    for block in part.blocks():
        inspection.add(block)
    return inspection


def require_cells(adata: AnnData, caller: str) -> None:
    """Refuse what has no cell or no gene."""
    if 0 in adata.shape:
        msg = (
            f"{caller} needs at least one cell and one gene; adata has {adata.n_obs} cells and {adata.n_vars} genes. "
            "Read the data again and print(adata.shape) after every filter to find the one that left nothing."
        )
        raise ValueError(msg)


def require_usable(adata: AnnData, report: MatrixReport, *, layer: str | None, caller: str, allow_log1p: bool) -> None:
    """Refuse values that are not finite, not what was asked for, or none at all."""
    where = _name(layer)
    if report.n_nan or report.n_infinite:
        msg = (
            f"{caller} needs finite values, but {where} holds {report.n_nan:,} NaN and {report.n_infinite:,} infinite "
            f"values. If they stand for zeros: {_zeroing(adata, layer)}"
        )
        raise ValueError(msg)
    accepted = (MatrixState.COUNTS, MatrixState.LOG1P) if allow_log1p else (MatrixState.COUNTS,)
    if report.state not in accepted:
        needed = " or ".join(accepted)
        fixes = "; or: ".join(_ways_out(adata, layer, report.state, accepted)) or (
            "No layer and no raw of this AnnData holds them. Start from the count matrix, for example: "
            'adata = sc.read_10x_h5("filtered_feature_bc_matrix.h5")'
        )
        msg = f"{caller} needs {needed}, but {where} {_description(report)}. {fixes}"
        raise ValueError(msg)
    if report.log_base not in (None, math.e):
        msg = (
            f"{caller} needs natural logarithms, but {where} holds logarithms of 1 + x to base {report.log_base:.0f}. "
            f"Convert them: {_prepared(adata, layer)}{where} = {where} * np.log({report.log_base:.0f})"
        )
        raise ValueError(msg)
    if report.n_empty:
        logger.warning(
            f"{caller}: {report.n_empty:,} of {report.n_cells:,} cells have no counts in {where}; "
            f"to drop them: {_dropping_empty(adata, layer)}"
        )


def _name(layer: str | None) -> str:
    return "adata.X" if layer is None else f'adata.layers["{layer}"]'


def _description(report: MatrixReport) -> str:
    if report.state is MatrixState.SCALED:
        return f"looks scaled ({report.n_negative:,} negative values)"
    if report.state is MatrixState.LOG1P:
        return f"holds {report.state} (not integers, the largest is {report.maximum:.3g})"
    return (
        f"holds {report.state} such as TPM, CPM or decontaminated counts "
        f"(the largest is {report.maximum:,.6g}, {report.integer_fraction:.0%} are integers)"
    )


def _ways_out(
    adata: AnnData, layer: str | None, found: MatrixState, accepted: tuple[MatrixState, ...]
) -> Iterator[str]:
    """Every way to accepted values that this AnnData really has."""
    likely = [name for name in layer_names(adata) if name.lower() in _COUNT_LAYERS and name != layer]
    for name in sorted(likely, key=lambda name: _COUNT_LAYERS.index(name.lower())):
        if _fits(inspect_matrix(adata, layer=name), (MatrixState.COUNTS,)):
            yield f'{_name(name)} holds {MatrixState.COUNTS}: pass layer="{name}"'
    if layer is not None and adata.X is not None and _fits(report := inspect_matrix(adata), accepted):
        yield f"adata.X holds {report.state}: pass layer=None"
    if adata.raw is not None and _fits(report := inspect_matrix(AnnData(adata.raw.X)), accepted):
        then = "" if layer is None else ", then pass layer=None"
        yield f"adata.raw holds {report.state}: adata = adata.raw.to_adata(){then}"
    if found is MatrixState.NORMALISED and MatrixState.LOG1P in accepted:
        yield f"If all cells have been scaled to one total: {_prepared(adata, layer)}{_logging(adata, layer)}"


def _fits(report: MatrixReport, accepted: tuple[MatrixState, ...]) -> bool:
    return report.state in accepted and report.log_base in (None, math.e) and not report.n_nan + report.n_infinite


def _prepared(adata: AnnData, layer: str | None) -> str:
    """Line that makes the values assignable, where they are not."""
    matrix, _, _ = locate(adata, layer)
    in_memory = isinstance(matrix, np.ndarray) or sparse.issparse(matrix)
    return "" if in_memory and not adata.is_view else "adata = adata.to_memory(); "


def _dropping_empty(adata: AnnData, layer: str | None) -> str:
    if layer is None and not adata.isbacked:
        return "sc.pp.filter_cells(adata, min_counts=1)"
    return f"{_prepared(adata, layer)}adata = adata[np.ravel({_name(layer)}.sum(axis=1)) > 0].copy()"


def _logging(adata: AnnData, layer: str | None) -> str:
    if isinstance(locate(adata, layer)[0], sparse.sparray):  # scanpy 1.11 takes numpy and sparse matrices only
        return f"{_name(layer)} = {_name(layer)}.log1p()"
    return "sc.pp.log1p(adata)" if layer is None else f'sc.pp.log1p(adata, layer="{layer}")'


def _zeroing(adata: AnnData, layer: str | None) -> str:
    name, (matrix, _, _) = _name(layer), locate(adata, layer)
    # What a dask array is made of shows in its _meta.
    if isinstance(matrix, CSRDataset | CSCDataset) or sparse.issparse(getattr(matrix, "_meta", matrix)):
        return f"{_prepared(adata, layer)}{name}.data[~np.isfinite({name}.data)] = 0"
    return f"{_prepared(adata, layer)}{name} = np.nan_to_num({name}, nan=0, posinf=0, neginf=0)"
