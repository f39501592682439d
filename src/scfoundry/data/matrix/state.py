"""What a matrix holds: raw counts, log1p-normalised, scaled, or normalised values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import sparse

from scfoundry.data.matrix.loaders import row_blocks

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["LOG_CEILING", "MatrixReport", "MatrixState", "inspect_matrix", "to_linear"]

LOG_CEILING = 20.0
"""log2 of 1e6: no logarithm of counts, CPM or TPM lies above it."""

_LINEAR: Final = 0.0
"""Stands for "no logarithm" among the bases."""

_BASES = (math.e, 2.0, 10.0, _LINEAR)
"""Scales a matrix of small non-integers may be on, the natural logarithm first."""

_PART_VALUES = 2**18
"""Values compared at a time, few enough to stay in the processor's cache."""


class MatrixState(StrEnum):
    """What the values of a matrix are."""

    COUNTS = "raw counts"
    """Non-negative integers of any type."""

    LOG1P = "log1p-normalised values"
    """Logarithm of one plus counts, usually after scaling every cell to the same total."""

    SCALED = "scaled values"
    """Some are negative: z-scores, residuals, centred values."""

    NORMALISED = "normalised values"
    """Non-negative, not integers, not logged: CPM, TPM, proportions, or counts with ambient RNA subtracted."""


@dataclass(frozen=True, eq=False)
class MatrixReport:
    """Summary of a whole matrix. NaN and infinite values are counted and otherwise left out."""

    state: MatrixState
    n_cells: int
    n_genes: int
    maximum: float
    empty_rows: NDArray[np.int64]  # row numbers of the cells without any count
    n_nan: int
    n_infinite: int
    n_negative: int
    integer_fraction: float  # of the values that are not zero; 1 if all are zero
    median_total: float  # median over cells of the sum of a cell's values
    target_sum: float | None  # total per cell after expm1, of LOG1P values where cells share it within 1 %
    log_base: float | None  # e, 2 or 10, of LOG1P values, where the values prove it

    @property
    def n_empty(self) -> int:
        """Cells without any count."""
        return len(self.empty_rows)


def inspect_matrix(adata: AnnData, *, layer: str | None = None, block_size: int | None = None) -> MatrixReport:
    r"""Find out what a matrix holds, from all of its values in one pass; blocks do not change the report.

    1. Any negative value: ``SCALED``. Only integers, in whatever type: ``COUNTS``, also if all are zero.
    2. A value above 20, the base-2 logarithm of a million: ``NORMALISED``.
    3. Depth normalisation multiplies the integer counts :math:`c_{ij}` of a cell by one factor :math:`s_i`, so that on
       the linear scale :math:`y_{ij} = s_i c_{ij}` the ratios :math:`y_{ij} / \min_j y_{ij}` are integers again, for
       any selection of genes. The scale (logarithm to base e, 2, 10, or linear) on which most ratios between 1.5 and
       50 lie within 0.02 of an integer is the scale of the values; on a wrong one about 4 % do.
    4. Failing that (few values, or gene length or smoothing divided them), the one scale on which all cells have the
       same total within 1 %.
    5. Failing that too, values that reach above 1 are taken for ``LOG1P``, smaller ones for ``NORMALISED``.

    Counts after subtraction of ambient RNA that are not integers (SoupX without ``roundToInt``, DecontX) are reported
    as ``NORMALISED``, because nothing tells them from other linear values; where none exceeds 20, as in small gene
    panels, rule 5 takes them for ``LOG1P``.
    """
    maximum, n_nan, n_infinite, n_negative, n_values, n_integers = 0.0, 0, 0, 0, 0, 0
    totals = np.zeros(adata.n_obs)
    empty = np.ones(adata.n_obs, dtype=bool)
    scale = _ScaleEvidence()
    ones = np.ones(adata.n_vars)
    for rows, block in row_blocks(adata, layer=layer, block_size=block_size):
        values = block.data
        finite = np.isfinite(values)
        if not finite.all():
            n_nan += int(np.isnan(values).sum())
            n_infinite += int(np.isinf(values).sum())
            values[~finite] = 0
        block.eliminate_zeros()
        values = block.data
        totals[rows] = block.astype(np.float64) @ ones
        empty[rows] = np.diff(block.indptr) == 0
        if values.size == 0:
            continue
        integers = values == np.rint(values) if values.dtype.kind == "f" else np.ones(values.size, dtype=bool)
        n_values += values.size
        n_integers += int(integers.sum())
        n_negative += int((values < 0).sum())
        maximum = max(maximum, float(values.max()))
        if maximum <= LOG_CEILING and n_negative == 0 and not integers.all():
            scale.add(block, integers)

    log_base = None
    if n_negative:
        state = MatrixState.SCALED
    elif n_integers == n_values:
        state = MatrixState.COUNTS
    elif maximum > LOG_CEILING:
        state = MatrixState.NORMALISED
    else:
        proven = scale.proven()
        if proven is None:
            state = MatrixState.LOG1P if maximum > 1 else MatrixState.NORMALISED
        else:
            state = MatrixState.NORMALISED if proven == _LINEAR else MatrixState.LOG1P
            log_base = proven or None
    return MatrixReport(
        state=state,
        n_cells=adata.n_obs,
        n_genes=adata.n_vars,
        maximum=maximum,
        empty_rows=np.flatnonzero(empty),
        n_nan=n_nan,
        n_infinite=n_infinite,
        n_negative=n_negative,
        integer_fraction=n_integers / n_values if n_values else 1.0,
        median_total=float(np.median(totals)) if totals.size else 0.0,
        target_sum=scale.common_total(math.e) if state is MatrixState.LOG1P else None,
        log_base=log_base,
    )


def to_linear(block: sparse.csr_matrix, state: MatrixState) -> sparse.csr_matrix:
    """Values on the scale of counts, float32: counts as they are, ``expm1`` of log1p-normalised values."""
    if state is MatrixState.COUNTS:
        values = block.data.astype(np.float32)
    elif state is MatrixState.LOG1P:
        values = np.expm1(block.data.astype(np.float64)).astype(np.float32)
    else:
        msg = (
            f"to_linear takes {MatrixState.COUNTS} or {MatrixState.LOG1P}; got {state}. "
            "Check the matrix first: require_counts(adata, caller=..., allow_log1p=True)."
        )
        raise ValueError(msg)
    return sparse.csr_matrix((values, block.indices, block.indptr), shape=block.shape)


@dataclass
class _ScaleEvidence:
    """Evidence for every base of `_BASES`, summed over cells, so that it does not depend on how they are blocked."""

    n_cells: int = 0
    n_ratios: dict[float, int] = field(default_factory=lambda: dict.fromkeys(_BASES, 0))
    n_near_integer: dict[float, int] = field(default_factory=lambda: dict.fromkeys(_BASES, 0))
    lowest_total: dict[float, float] = field(default_factory=lambda: dict.fromkeys(_BASES, math.inf))
    highest_total: dict[float, float] = field(default_factory=lambda: dict.fromkeys(_BASES, 0.0))

    def add(self, block: sparse.csr_matrix, integers: NDArray[np.bool_]) -> None:
        """Take in the cells of a block without stored zeros; `integers` marks its integer values."""
        # A cell of integers fits every scale or none: it is passed over.
        fractional = np.diff(np.concatenate([[0], np.cumsum(~integers)])[block.indptr]) > 0
        rows = np.flatnonzero(fractional)
        self.n_cells += len(rows)
        for part in np.array_split(rows, min(len(rows), 1 + block.nnz // _PART_VALUES)):
            self._add_ratios(block[part])

    def _add_ratios(self, cells: sparse.csr_matrix) -> None:
        per_cell = np.diff(cells.indptr)
        starts = cells.indptr[:-1]
        logged = cells.data.astype(np.float64)
        for base in _BASES:
            linear = logged if base == _LINEAR else np.expm1(logged * math.log(base))
            totals = np.add.reduceat(linear, starts)
            self.lowest_total[base] = min(self.lowest_total[base], float(totals.min()))
            self.highest_total[base] = max(self.highest_total[base], float(totals.max()))
            ratios = linear / np.repeat(np.minimum.reduceat(linear, starts), per_cell)
            # The smallest value itself says nothing, and far up rounding blurs what is an integer.
            ratios = ratios[(ratios > 1.5) & (ratios < 50)]
            self.n_ratios[base] += ratios.size
            self.n_near_integer[base] += int((np.abs(ratios - np.rint(ratios)) < 0.02).sum())

    def proven(self) -> float | None:
        """Base that the values prove, `_LINEAR` for no logarithm, `None` if they prove nothing."""
        shares = {base: self.n_near_integer[base] / n for base, n in self.n_ratios.items() if n >= 20}
        best = max(shares, key=lambda base: shares[base], default=_LINEAR)
        if shares.get(best, 0.0) >= 0.5:
            return best
        constant = [base for base in _BASES if self.common_total(base) is not None]
        return constant[0] if len(constant) == 1 else None

    def common_total(self, base: float) -> float | None:
        """Total that all cells share within 1 %, to six digits: the last ones depend on where a block begins."""
        low, high = self.lowest_total[base], self.highest_total[base]
        return float(f"{(low + high) / 2:.6g}") if self.n_cells > 1 and high <= 1.01 * low else None
