"""A matrix that is not what a model needs is refused with the line that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scfoundry.data.matrix.checks import MatrixState, require_counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    AsArray = Callable[[np.ndarray], Any]


@pytest.fixture(scope="module")
def counts(make_adata: Callable[..., AnnData]) -> np.ndarray:
    return make_adata(80, 60, seed=1).X.toarray()


def _normalised(counts: np.ndarray, target_sum: float | None = 1e4) -> np.ndarray:
    return sc.pp.normalize_total(AnnData(counts.copy()), target_sum=target_sum, inplace=False)["X"]


def _scaled(counts: np.ndarray) -> np.ndarray:
    return sc.pp.scale(np.log1p(counts))


@pytest.fixture
def caller() -> str:
    return "sf.tl.embed"


def test_counts_pass(as_array: AsArray, counts: np.ndarray, caller: str) -> None:
    assert require_counts(AnnData(as_array(counts)), caller=caller).state is MatrixState.COUNTS


def test_log_normalised_values_pass_where_they_are_allowed(counts: np.ndarray, caller: str) -> None:
    adata = AnnData(np.log1p(_normalised(counts)))
    assert require_counts(adata, caller=caller, allow_log1p=True).state is MatrixState.LOG1P
    with pytest.raises(
        ValueError,
        match=r"^sf\.tl\.embed needs raw counts, but adata\.X holds log1p-normalised values \(not integers, the",
    ):
        require_counts(adata, caller=caller)


def test_refusal_names_the_layer(counts: np.ndarray, caller: str) -> None:
    adata = AnnData(counts, layers={"z": _scaled(counts)})
    with pytest.raises(
        ValueError, match=r'adata\.layers\["z"\] looks scaled.*adata\.X holds raw counts: pass layer=None'
    ):
        require_counts(adata, layer="z", caller=caller)


def test_scaled_values_point_to_raw(caller: str, run_fix: Callable[..., AnnData]) -> None:
    adata = sc.datasets.pbmc68k_reduced()
    with pytest.raises(
        ValueError,
        match=r"needs raw counts or log1p-normalised values, but adata\.X looks scaled \(397,164 negative values\)",
    ) as error:
        require_counts(adata, caller=caller, allow_log1p=True)
    assert "adata.raw holds log1p-normalised values: " in str(error.value)
    assert require_counts(run_fix("adata = adata.raw.to_adata()", error.value, adata), caller=caller, allow_log1p=True)


def test_raw_that_would_be_refused_too_is_not_offered(caller: str) -> None:
    with pytest.raises(ValueError, match=r"looks scaled.*No layer and no raw of this AnnData holds them") as error:
        require_counts(sc.datasets.pbmc68k_reduced(), caller=caller)
    assert "to_adata" not in str(error.value)


def test_every_way_out_is_named_likeliest_first(counts: np.ndarray, caller: str) -> None:
    adata = AnnData(_scaled(counts), layers={"spliced": counts, "counts": counts})
    adata.raw = AnnData(counts)
    with pytest.raises(
        ValueError, match=r'pass layer="counts"; or: .*pass layer="spliced"; or: .*adata = adata\.raw\.to_adata\(\)$'
    ):
        require_counts(adata, caller=caller)


@pytest.mark.parametrize("name", ["counts", "raw_counts", "spliced"])
def test_count_layers_are_offered(counts: np.ndarray, caller: str, name: str) -> None:
    adata = AnnData(_scaled(counts), layers={"unspliced": counts, name: counts})
    with pytest.raises(ValueError, match=f'adata.layers."{name}". holds raw counts: pass layer="{name}"$'):
        require_counts(adata, caller=caller)
    assert require_counts(adata, layer=name, caller=caller).state is MatrixState.COUNTS


def test_layers_that_only_sound_like_counts_are_not_offered(counts: np.ndarray, caller: str) -> None:
    missing = counts.copy()
    missing[0, 0] = np.nan
    adata = AnnData(_scaled(counts), layers={"counts": _normalised(counts), "raw": missing})
    with pytest.raises(ValueError, match=r'Start from the count matrix.*adata = sc\.read_10x_h5\("filtered') as error:
        require_counts(adata, caller=caller)
    assert "layer=" not in str(error.value)


def test_raw_counts_in_raw_are_offered_for_a_layer(counts: np.ndarray, caller: str) -> None:
    adata = AnnData(_scaled(counts), layers={"logcounts": np.log1p(_normalised(counts))})
    adata.raw = AnnData(counts)
    with pytest.raises(ValueError, match=r"adata = adata\.raw\.to_adata\(\), then pass layer=None$"):
        require_counts(adata, layer="logcounts", caller=caller)


def test_linear_values_are_refused_with_the_line_that_logs_them(
    as_array: AsArray, counts: np.ndarray, caller: str, run_fix: Callable[..., AnnData]
) -> None:
    adata = AnnData(as_array(_normalised(counts)))
    with pytest.raises(
        ValueError, match=r"adata\.X holds normalised values such as TPM, CPM or decont.*largest is"
    ) as error:
        require_counts(adata, caller=caller, allow_log1p=True)
    mended = run_fix(str(error.value).split("scaled to one total: ")[1], error.value, adata)
    assert require_counts(mended, caller=caller, allow_log1p=True).target_sum == pytest.approx(1e4)
    with pytest.raises(ValueError, match="holds normalised values") as error:
        require_counts(AnnData(_normalised(counts)), caller=caller)
    assert "log1p" not in str(error.value)


def test_logarithms_to_base_2_are_refused_with_the_line_that_converts_them(
    as_array: AsArray, counts: np.ndarray, caller: str, run_fix: Callable[..., AnnData]
) -> None:
    adata = AnnData(as_array(np.log2(1 + _normalised(counts))))
    with pytest.raises(
        ValueError, match=r"natural logarithms, but adata\.X holds logarithms of 1 \+ x to base 2"
    ) as error:
        require_counts(adata, caller=caller, allow_log1p=True)
    mended = run_fix("adata.X = adata.X * np.log(2)", error.value, adata)
    assert require_counts(mended, caller=caller, allow_log1p=True).target_sum == pytest.approx(1e4)


@pytest.mark.parametrize("view", [False, True], ids=["whole", "view"])
def test_missing_values_are_refused_with_a_line_that_works(
    as_array: AsArray, counts: np.ndarray, caller: str, view: bool, run_fix: Callable[..., AnnData]
) -> None:
    values = counts.copy()
    values[3, [4, 5]], values[6, 0] = np.nan, np.inf
    adata = AnnData(np.zeros_like(values), layers={"raw": as_array(values)})
    if view:
        adata = adata[:, ::-1]
    with pytest.raises(
        ValueError, match=r'needs finite values, but adata\.layers\["raw"\] holds 2 NaN and 1 infinite values'
    ) as error:
        require_counts(adata, layer="raw", caller=caller)
    mended = run_fix(str(error.value).split("If they stand for zeros: ")[1], error.value, adata)
    assert require_counts(mended, layer="raw", caller=caller).state is MatrixState.COUNTS


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix], ids=["dense", "csr", "csc"])
def test_missing_values_in_a_file(
    form: AsArray, counts: np.ndarray, caller: str, tmp_path: Path, run_fix: Callable[..., AnnData]
) -> None:
    values = counts.copy()
    values[3, 4] = np.nan
    AnnData(form(values)).write_h5ad(tmp_path / "adata.h5ad")
    adata = ad.read_h5ad(tmp_path / "adata.h5ad", backed="r")
    with pytest.raises(ValueError, match="1 NaN and 0 infinite") as error:
        require_counts(adata, caller=caller)
    mended = run_fix(str(error.value).split("If they stand for zeros: ")[1], error.value, adata)
    assert require_counts(mended, caller=caller).state is MatrixState.COUNTS


@pytest.mark.parametrize(("shape", "found"), [((0, 3), "0 cells and 3 genes"), ((2, 0), "2 cells and 0 genes")])
def test_nothing_to_read(shape: tuple[int, int], found: str, caller: str) -> None:
    with pytest.raises(ValueError, match=f"sf.tl.embed needs at least one cell and one gene; adata has {found}"):
        require_counts(AnnData(np.zeros(shape)), caller=caller)


@pytest.mark.parametrize("layer", [None, "counts"])
def test_empty_cells_are_warned_about_once(
    as_array: AsArray,
    counts: np.ndarray,
    caller: str,
    layer: str | None,
    logged: list[str],
    run_fix: Callable[..., AnnData],
) -> None:
    values = counts.copy()
    values[[2, 9]] = 0
    adata = AnnData(as_array(values), layers={"counts": as_array(values)})
    assert require_counts(adata, layer=layer, caller=caller).n_empty == 2
    (message,) = logged
    assert message.startswith("sf.tl.embed: 2 of 80 cells have no counts in adata.")
    mended = run_fix(message.split("to drop them: ")[1], message, adata)
    assert require_counts(mended, layer=layer, caller=caller).n_empty == 0
    assert logged == [message]


def test_empty_cells_of_a_file(
    counts: np.ndarray, caller: str, logged: list[str], tmp_path: Path, run_fix: Callable[..., AnnData]
) -> None:
    counts = counts.copy()
    counts[5] = 0
    AnnData(counts).write_h5ad(tmp_path / "adata.h5ad")
    adata = ad.read_h5ad(tmp_path / "adata.h5ad", backed="r")
    require_counts(adata, caller=caller)
    (message,) = logged
    assert run_fix(message.split("to drop them: ")[1], message, adata).n_obs == len(counts) - 1


def test_unknown_layer_is_refused_before_anything_else(counts: np.ndarray, caller: str) -> None:
    with pytest.raises(ValueError, match=r"adata\.layers has no 'raw'; layers of this AnnData: 'counts'"):
        require_counts(AnnData(counts, layers={"counts": counts}), layer="raw", caller=caller)
