"""What a matrix holds: raw counts, log1p-normalised, scaled, or normalised values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.pieces import VALUES_PER_PIECE, canonical, kernel_arrays, over_pieces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

__all__ = ["LOG_CEILING", "Inspection", "MatrixReport", "MatrixState", "inspect_matrix", "to_linear"]

LOG_CEILING = 20.0
"""log2 of 1e6: no logarithm of counts, CPM or TPM lies above it."""

_LINEAR: Final = 0.0
"""Stands for "no logarithm" among the bases."""

_BASES = (math.e, 2.0, 10.0, _LINEAR)
"""Scales a matrix of small non-integers may be on, the natural logarithm first."""

_ROUND = 1e-5
"""How far the logarithm of the total of a single cell may be from a whole number."""

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
       50 lie within 0.02 of an integer is the scale of the values; on a wrong one about 4 % do. Of fewer than 20
       ratios, all have to, and near three integers at least in one cell.
    4. Failing that (few values, or gene length or smoothing divided them), the one scale on which all cells have the
       same total within 1 %; of a single cell, the one on which its total is a power of ten.
    5. Failing that too, values that reach above 1 are taken for ``LOG1P``, smaller ones for ``NORMALISED``.

    Counts after subtraction of ambient RNA that are not integers (SoupX without ``roundToInt``, DecontX) are reported
    as ``NORMALISED``, because nothing tells them from other linear values; where none exceeds 20, as in small gene
    panels, rule 5 takes them for ``LOG1P``.
    """
    inspection = Inspection(adata.n_obs, adata.n_vars)
    for _, block in row_blocks(adata, layer=layer, block_size=block_size):
        inspection.add(block)
    return inspection.report()


class Inspection:
    """What `inspect_matrix` finds out, from blocks of consecutive cells as they are read; they are left as they are."""

    def __init__(self, n_cells: int, n_genes: int) -> None:
        self.n_cells, self.n_genes, self._n_seen = n_cells, n_genes, 0
        self._totals, self._empty = np.zeros(n_cells), np.zeros(n_cells, dtype=bool)
        self._counts, self._maximum = np.zeros(5, dtype=np.int64), 0.0
        self._scale = _ScaleEvidence()

    def add(self, block: sparse.csr_matrix) -> None:
        """Take in the next cells."""
        from scfoundry.data.matrix.scan_kernel import FRACTION, NEGATIVE, look

        values, _, indptr = kernel_arrays(block)
        here = slice(self._n_seen, self._n_seen + block.shape[0])
        self._n_seen = here.stop
        fractional = np.zeros(block.shape[0], dtype=bool)
        per_cell, found = (self._totals[here], self._empty[here], fractional), []

        def look_at(first: int, last: int) -> None:
            counts = np.zeros_like(self._counts)
            found.append((look(first, last, values, indptr, *per_cell, counts), counts))

        over_pieces(look_at, indptr, VALUES_PER_PIECE)
        for largest, counts in found:
            self._maximum = max(self._maximum, largest)
            self._counts += counts
        # A cell of integers fits every scale or none: it is passed over.
        if self._counts[FRACTION] and self._maximum <= LOG_CEILING and not self._counts[NEGATIVE] and fractional.any():
            self._scale.add(values, indptr, fractional)

    @classmethod
    def merged(cls, parts: Iterable[Inspection]) -> Self:
        """What was found out about consecutive parts of a matrix, as of the whole."""
        parts = list(parts)
        whole = cls(sum(part.n_cells for part in parts), parts[0].n_genes)
        whole._n_seen = whole.n_cells
        whole._totals = np.concatenate([part._totals for part in parts])
        whole._empty = np.concatenate([part._empty for part in parts])
        whole._maximum = max(part._maximum for part in parts)
        for part in parts:
            whole._counts += part._counts
            whole._scale.take_in(part._scale)
        return whole

    @property
    def found(self) -> tuple[MatrixState, float | None]:
        """What the cells seen so far hold, and the base of their logarithms where the values prove it."""
        _, _, n_negative, _, n_fractions = self._counts
        if n_negative:
            return MatrixState.SCALED, None
        if not n_fractions:
            return MatrixState.COUNTS, None
        if self._maximum > LOG_CEILING:
            return MatrixState.NORMALISED, None
        proven = self._scale.proven()
        if proven is None:
            return MatrixState.LOG1P if self._maximum > 1 else MatrixState.NORMALISED, None
        return (MatrixState.NORMALISED, None) if proven == _LINEAR else (MatrixState.LOG1P, proven)

    def report(self) -> MatrixReport:
        """Summary of the matrix, once all cells have been seen."""
        n_nan, n_infinite, n_negative, n_values, n_fractions = self._counts.tolist()
        state, log_base = self.found
        return MatrixReport(
            state=state,
            n_cells=self.n_cells,
            n_genes=self.n_genes,
            maximum=self._maximum,
            empty_rows=np.flatnonzero(self._empty),
            n_nan=n_nan,
            n_infinite=n_infinite,
            n_negative=n_negative,
            integer_fraction=1 - n_fractions / n_values if n_values else 1.0,
            median_total=float(np.median(self._totals)) if self.n_cells else 0.0,
            target_sum=self._scale.common_total(math.e) if state is MatrixState.LOG1P else None,
            log_base=log_base,
        )


def to_linear(block: sparse.csr_matrix, state: MatrixState) -> sparse.csr_matrix:
    """Values on the scale of counts, float32: counts as they are, ``expm1`` of log1p-normalised values.

    Counts that are float32 are not copied.
    """
    if state is MatrixState.COUNTS:
        values = block.data.astype(np.float32, copy=False)
    elif state is MatrixState.LOG1P:
        values = np.expm1(block.data.astype(np.float64)).astype(np.float32)
    else:
        msg = (
            f"to_linear takes {MatrixState.COUNTS} or {MatrixState.LOG1P}; got {state}. "
            "Check the matrix first: require_counts(adata, caller=..., allow_log1p=True)."
        )
        raise ValueError(msg)
    return canonical(values, block.indices, block.indptr, block.shape)


class _ScaleEvidence:
    """Evidence for every base of `_BASES`, summed over cells, so that it does not depend on how they are blocked."""

    def __init__(self) -> None:
        self.n_cells = 0
        # As `near_integers` leaves it
        self._found = {base: np.array([0, 0, math.inf, 0, 0]) for base in _BASES}

    def add(self, values: NDArray[np.floating], indptr: NDArray[np.int64], fractional: NDArray[np.bool_]) -> None:
        """Take in cells, of which those that are ``fractional`` count."""
        from scfoundry.data.matrix.scan_kernel import near_integers

        self.n_cells += int(fractional.sum())
        step = max(1, len(fractional) * _PART_VALUES // len(values))
        for first in range(0, len(fractional), step):
            part = slice(first, first + step)
            ends = indptr[first : first + step + 1]
            logged = values[ends[0] : ends[-1]].astype(np.float64)
            for base, found in self._found.items():
                linear = logged if base == _LINEAR else np.expm1(logged * math.log(base))
                near_integers(linear, ends - ends[0], fractional[part], found)

    def take_in(self, other: _ScaleEvidence) -> None:
        """Take in what was found in further cells."""
        self.n_cells += other.n_cells
        for base, (n, near, low, high, different) in other._found.items():
            found = self._found[base]
            found[:] = found[0] + n, found[1] + near, min(found[2], low), max(found[3], high), max(found[4], different)

    def proven(self) -> float | None:
        """Base that the values prove, `_LINEAR` for no logarithm, `None` if they prove nothing."""
        shares = {base: near / n for base, (n, near, *_) in self._found.items() if n >= 20}
        best = max(shares, key=lambda base: shares[base], default=_LINEAR)
        if shares.get(best, 0.0) >= 0.5:
            return best
        # Of few ratios all are to be integers, and different ones, since equal ones are no further evidence.
        few = [base for base, (n, near, _, _, different) in self._found.items() if near == n < 20 and different >= 3]
        if len(few) == 1:
            return few[0]
        constant = [base for base in _BASES if self.common_total(base) is not None]
        return constant[0] if len(constant) == 1 else None

    def common_total(self, base: float) -> float | None:
        """Total that all cells share within 1 %, to six digits: the last ones depend on where a block begins.

        A single cell shares its total with all other data if that is a power of ten, as normalisation asks for.
        """
        _, _, low, high, _ = self._found[base]
        total = (low + high) / 2
        if self.n_cells == 1:
            power = math.log10(total) if 0 < total < math.inf else 0.0
            is_round = power > 1.5 and abs(power - round(power)) < _ROUND
            return 10.0 ** round(power) if is_round else None
        return float(f"{total:.6g}") if self.n_cells > 1 and high <= 1.01 * low else None
