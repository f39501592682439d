"""What a matrix holds is told from its values, however they are stored and read."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scfoundry.data.matrix.checks import MatrixReport, MatrixState, inspect_matrix, to_linear

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    AsArray = Callable[[np.ndarray], Any]

COUNTS, LOG1P, SCALED, NORMALISED = MatrixState


@pytest.fixture(scope="module")
def counts(make_adata: Callable[..., AnnData]) -> np.ndarray:
    return make_adata(80, 60, seed=1).X.toarray()


def _normalised(counts: np.ndarray, target_sum: float | None = 1e4) -> np.ndarray:
    return sc.pp.normalize_total(AnnData(counts.copy()), target_sum=target_sum, inplace=False)["X"]


def _scaled(counts: np.ndarray) -> np.ndarray:
    return sc.pp.scale(np.log1p(counts))


def _assert_equal(left: MatrixReport, right: MatrixReport) -> None:
    for name, value in dataclasses.asdict(left).items():
        np.testing.assert_array_equal(value, getattr(right, name), err_msg=name)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float32", "float64"])
def test_integers_of_any_type_are_counts(as_array: AsArray, counts: np.ndarray, dtype: str) -> None:
    values = np.minimum(counts, 255).astype(dtype)
    report = inspect_matrix(AnnData(as_array(values)))
    assert report.state is COUNTS
    assert (report.n_cells, report.n_genes) == values.shape
    assert report.maximum == values.max()
    assert report.integer_fraction == 1
    assert report.median_total == np.median(values.sum(axis=1))
    assert report.target_sum is None


def test_zeros_are_counts() -> None:
    report = inspect_matrix(AnnData(sparse.csr_matrix((4, 3), dtype=np.float32)))
    assert report.state is COUNTS
    assert report.maximum == 0
    np.testing.assert_array_equal(report.empty_rows, [0, 1, 2, 3])


@pytest.mark.parametrize("target_sum", [1e4, 1e6, None])
def test_log_normalised_counts_and_their_total(as_array: AsArray, counts: np.ndarray, target_sum: float | None) -> None:
    report = inspect_matrix(AnnData(as_array(np.log1p(_normalised(counts, target_sum)))))
    assert report.state is LOG1P
    assert report.log_base == math.e
    assert report.target_sum == pytest.approx(target_sum or np.median(counts.sum(axis=1)), rel=1e-4)


@pytest.mark.parametrize("target_sum", [1e4, 1e6, None])
def test_genes_selected_after_normalisation(counts: np.ndarray, target_sum: float | None) -> None:
    linear = _normalised(counts, target_sum)[:, 5:30]
    report = inspect_matrix(AnnData(np.log1p(linear)))
    assert (report.state, report.log_base, report.target_sum) == (LOG1P, math.e, None)
    assert inspect_matrix(AnnData(linear)).state is NORMALISED


def test_logarithm_of_counts_without_normalisation(counts: np.ndarray) -> None:
    assert inspect_matrix(AnnData(np.log1p(counts))).state is LOG1P


@pytest.mark.parametrize("base", [2, 10])
def test_other_bases_are_noticed(counts: np.ndarray, base: int) -> None:
    report = inspect_matrix(AnnData(np.log1p(_normalised(counts)) / np.log(base)))
    assert (report.state, report.log_base) == (LOG1P, base)


@pytest.mark.parametrize("base", [math.e, 2, 10])
def test_the_base_of_a_single_cell_is_told_by_its_total(counts: np.ndarray, base: float) -> None:
    """A few genes of which most were counted once have no ratios to tell it by."""
    linear = _normalised(np.minimum(counts, 3)[:, :12])
    told = [inspect_matrix(AnnData(np.log1p(cell[None]) / np.float32(np.log(base)))) for cell in linear if cell.any()]
    assert {report.log_base for report in told} == {base}
    assert {report.target_sum for report in told} == {1e4 if base == math.e else None}


def test_few_ratios_prove_a_scale_if_all_are_integers() -> None:
    counts = np.array([[1, 1, 2, 3, 5, 0, 1]])
    assert inspect_matrix(AnnData(np.log1p(0.7 * counts))).state is LOG1P
    assert inspect_matrix(AnnData(0.7 * counts)).state is NORMALISED
    assert inspect_matrix(AnnData(np.log2(1 + 0.7 * counts))).log_base == 2


def test_small_linear_values_are_not_taken_for_logarithms(counts: np.ndarray) -> None:
    linear = _normalised(counts, 15)
    assert 1 < linear.max() < 15
    assert inspect_matrix(AnnData(linear)).state is NORMALISED
    proportions = _normalised(counts, 1)
    assert inspect_matrix(AnnData(proportions)).state is NORMALISED
    assert inspect_matrix(AnnData(np.log1p(proportions))).state is LOG1P


def test_gene_lengths_hide_the_integers_but_not_the_scale(counts: np.ndarray) -> None:
    tpm = _normalised(counts / np.random.default_rng(0).lognormal(size=counts.shape[1]), 1e6)
    assert inspect_matrix(AnnData(tpm)).state is NORMALISED
    report = inspect_matrix(AnnData(np.log1p(tpm)))
    assert report.state is LOG1P
    assert report.target_sum == pytest.approx(1e6)
    assert inspect_matrix(AnnData(np.log2(1 + tpm[:, :20]))).state is LOG1P


def test_subtracted_ambient_rna_leaves_normalised_values(counts: np.ndarray) -> None:
    ambient = 0.1 * counts.sum(axis=1, keepdims=True) * counts.mean(axis=0) / counts.mean(axis=0).sum()
    assert inspect_matrix(AnnData(np.maximum(counts - ambient, 0))).state is NORMALISED


def test_negative_values_are_scaled(as_array: AsArray, counts: np.ndarray) -> None:
    values = _scaled(counts)
    report = inspect_matrix(AnnData(as_array(values)))
    assert report.state is SCALED
    assert report.n_negative == (values < 0).sum()
    assert inspect_matrix(AnnData(as_array((counts - 1).astype(int)))).state is SCALED


def test_one_cell_decides(counts: np.ndarray) -> None:
    for odd, state in ((0.1, NORMALISED), (-1, SCALED), (33.5, NORMALISED)):
        values = np.minimum(counts, 9)
        values[-1, -1] = odd
        assert inspect_matrix(AnnData(values), block_size=7).state is state


def test_nan_and_infinite_values_are_counted_and_left_out(as_array: AsArray, counts: np.ndarray) -> None:
    values = counts.copy()
    values[3, 4], values[5, [1, 2]], values[7] = np.nan, [np.inf, -np.inf], 0
    values[8], values[8, 0] = 0, np.nan
    report = inspect_matrix(AnnData(as_array(values)))
    assert (report.n_nan, report.n_infinite, report.n_negative) == (2, 2, 0)
    assert report.state is COUNTS
    assert report.maximum == np.nanmax(values[np.isfinite(values)])
    np.testing.assert_array_equal(report.empty_rows, [7, 8])
    assert report.n_empty == 2


def test_stored_zeros_do_not_count(counts: np.ndarray) -> None:
    matrix = sparse.csr_matrix(np.log1p(_normalised(counts)))
    matrix.data[matrix.indptr[4] : matrix.indptr[5]] = 0
    report = inspect_matrix(AnnData(matrix))
    assert report.empty_rows.tolist() == [4]
    _assert_equal(report, inspect_matrix(AnnData(matrix.toarray())))


@pytest.mark.parametrize("make", [np.copy, _normalised, lambda x: np.log1p(_normalised(x)), _scaled])
def test_report_depends_neither_on_blocks_nor_on_storage(
    as_array: AsArray, counts: np.ndarray, make: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    values = make(counts)
    values[11] = 0
    expected = inspect_matrix(AnnData(sparse.csr_matrix(values)))
    for block_size in (1, 7, 1000):
        _assert_equal(inspect_matrix(AnnData(as_array(values)), block_size=block_size), expected)
    _assert_equal(inspect_matrix(AnnData(0 * values, layers={"a": as_array(values)})[:, ::-1], layer="a"), expected)
    AnnData(sparse.csc_matrix(values)).write_h5ad(tmp_path / "adata.h5ad")
    _assert_equal(inspect_matrix(ad.read_h5ad(tmp_path / "adata.h5ad", backed="r")), expected)


def test_inspection_does_not_write(as_array: AsArray, counts: np.ndarray) -> None:
    values = np.where(counts == 1, np.nan, counts)
    adata = AnnData(as_array(values))
    inspect_matrix(adata)
    matrix = adata.X.compute() if hasattr(adata.X, "compute") else adata.X
    np.testing.assert_array_equal(matrix.toarray() if sparse.issparse(matrix) else matrix, values)


def test_pbmc68k_reduced() -> None:
    adata = sc.datasets.pbmc68k_reduced()
    assert inspect_matrix(adata).state is SCALED
    report = inspect_matrix(adata.raw.to_adata())
    assert (report.state, report.log_base) == (LOG1P, math.e)


def test_real_data_sets(shared_data: Path) -> None:
    others = {
        "a375_plx4720_response": SCALED,
        "ccle_gdsc_ic50": SCALED,
        "celltype_profiles_human": NORMALISED,
        "gdsc2_ic50": LOG1P,
        "melanoma_tcells_550": LOG1P,
        "oligodendroglioma_184": NORMALISED,
        "pancreas_cepo_528": NORMALISED,
    }
    for path in sorted(shared_data.glob("*.h5ad")):
        adata = ad.read_h5ad(path)
        state = others.get(path.stem, COUNTS)
        assert inspect_matrix(adata).state is state, path.stem
        if state is not COUNTS:
            continue
        adata = AnnData(adata.X[:300].astype(np.float32))
        sc.pp.normalize_total(adata, target_sum=1e4)
        assert inspect_matrix(adata).state is NORMALISED, path.stem
        sc.pp.log1p(adata)
        report = inspect_matrix(adata)
        assert (report.state, report.log_base) == (LOG1P, math.e), path.stem
        assert report.target_sum == pytest.approx(1e4, rel=1e-3), path.stem
        assert inspect_matrix(adata[:, ::7]).state is LOG1P, path.stem


def test_to_linear_inverts_log1p_on_the_stored_values(counts: np.ndarray) -> None:
    linear = sparse.csr_matrix(_normalised(counts))
    linear.data[0] = 0
    back = to_linear(linear.log1p(), LOG1P)
    assert back.dtype == np.float32
    assert back.nnz == linear.nnz
    assert back.data[0] == 0
    np.testing.assert_allclose(back.data, linear.data, rtol=1e-5)


def test_to_linear_leaves_counts_as_they_are(counts: np.ndarray) -> None:
    block = sparse.csr_matrix(counts.astype(np.uint16))
    linear = to_linear(block, COUNTS)
    assert linear.dtype == np.float32
    np.testing.assert_array_equal(linear.toarray(), counts)
    linear.data[:] = 0
    np.testing.assert_array_equal(block.toarray(), counts)


@pytest.mark.parametrize("state", [SCALED, NORMALISED])
def test_to_linear_refuses_what_it_cannot_invert(state: MatrixState) -> None:
    with pytest.raises(ValueError, match=f"to_linear takes raw counts or log1p-normalised values; got {state}"):
        to_linear(sparse.csr_matrix((2, 2)), state)
