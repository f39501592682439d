"""Cells are grouped by sample without losing their order, and positions are checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scfoundry.data.matrix.contexts import contexts, coordinates, unit_coordinates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLES = ["tumour", "blood", "tumour", "node", "blood"]
BY_SAMPLE = [("tumour", [0, 2]), ("blood", [1, 4]), ("node", [3])]


def _adata(samples: Any = SAMPLES) -> AnnData:
    return AnnData(
        np.ones((len(samples), 2)), obs=pd.DataFrame({"sample": samples}, index=list("abcdefg")[: len(samples)])
    )


def _as_lists(adata: AnnData) -> list[tuple[str, list[int]]]:
    return [(context.name, context.rows.tolist()) for context in contexts(adata, "sample")]


@pytest.mark.parametrize(
    "samples",
    [
        SAMPLES,
        pd.Categorical(SAMPLES, categories=["unused", "blood", "node", "tumour"]),
        np.array(SAMPLES, dtype=object),
    ],
    ids=["strings", "categorical", "objects"],
)
def test_one_context_per_sample_in_order_of_appearance(samples: Any) -> None:
    assert _as_lists(_adata(samples)) == BY_SAMPLE


@pytest.mark.parametrize("samples", [[7, 3, 7], [7.0, 3.0, 7.0], [True, False, True]])
def test_samples_may_be_numbers(samples: list[Any]) -> None:
    assert _as_lists(_adata(samples)) == [(str(samples[0]), [0, 2]), (str(samples[1]), [1])]


def test_contexts_share_out_all_cells(make_adata: Callable[..., AnnData]) -> None:
    adata = make_adata(200, 5, n_batches=7)
    groups = contexts(adata, "batch")
    np.testing.assert_array_equal(np.sort(np.concatenate([group.rows for group in groups])), np.arange(200))
    for group in groups:
        assert group.rows.dtype == np.int64
        assert np.all(np.diff(group.rows) > 0)
        assert set(adata.obs["batch"].iloc[group.rows]) == {group.name}


def test_without_a_key_all_cells_are_one_context() -> None:
    (context,) = contexts(_adata())
    assert context.name == "all"
    np.testing.assert_array_equal(context.rows, np.arange(5))


def test_contexts_of_views_and_lazily_read_data(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    adata = _adata(pd.Categorical(SAMPLES))
    assert _as_lists(adata[::-1]) == [("blood", [0, 3]), ("node", [1]), ("tumour", [2, 4])]
    adata.write_h5ad(tmp_path / "adata.h5ad")
    assert _as_lists(ad.experimental.read_lazy(tmp_path / "adata.h5ad")) == BY_SAMPLE


def test_unknown_batch_key_names_the_columns() -> None:
    with pytest.raises(ValueError, match=r"adata\.obs has no column 'donor'; its columns: 'sample'\. Pass one of them"):
        contexts(_adata(), "donor")


@pytest.mark.parametrize("as_column", [list, pd.Categorical], ids=["strings", "categorical"])
def test_cells_without_a_sample_are_refused_with_a_line_that_works(
    as_column: Callable[[list[Any]], Any], run_fix: Callable[..., AnnData]
) -> None:
    adata = _adata(as_column(["tumour", None, "tumour", np.nan]))
    with pytest.raises(ValueError, match=r"2 of 4 cells have no value in adata\.obs\['sample'\]") as error:
        contexts(adata, "sample")
    mended = run_fix('adata = adata[adata.obs["sample"].notna()].copy()', error.value, adata)
    assert _as_lists(mended) == [("tumour", [0, 1])]


def test_messages_call_the_data_by_the_name_of_the_user() -> None:
    called = {"name": "reference", "argument": "reference_batch_key"}
    with pytest.raises(ValueError, match=r"reference\.obs has no column 'donor'.*as reference_batch_key, or None"):
        contexts(_adata(), "donor", **called)
    with pytest.raises(ValueError, match=r'reference = reference\[reference\.obs\["sample"\]\.notna\(\)\]\.copy'):
        contexts(_adata(["tumour", None]), "sample", **called)


def _placed(xy: Any, samples: Any = SAMPLES) -> AnnData:
    adata = _adata(samples)
    adata.obsm["spatial"] = xy
    return adata


@pytest.mark.parametrize("as_frame", [False, True], ids=["array", "frame"])
def test_coordinates_come_by_context_as_float32(as_frame: bool) -> None:
    xy = np.arange(10, dtype=np.int64).reshape(5, 2)
    adata = _placed(pd.DataFrame(xy, index=_adata().obs_names, columns=["x", "y"]) if as_frame else xy)
    found = coordinates(adata, "spatial", contexts(adata, "sample"))
    assert list(found) == ["tumour", "blood", "node"]
    for context in contexts(adata, "sample"):
        assert found[context.name].dtype == np.float32
        np.testing.assert_array_equal(found[context.name], xy[context.rows] - xy[context.rows].min(0))


def test_coordinates_are_as_exact_far_from_the_origin() -> None:
    xy = np.array([[0.25, 3.5], [1.75, 0.5], [2, 2], [0, 1], [4, 4.25]])
    groups = contexts(_adata(), "sample")
    near, far = (coordinates(_placed(places), "spatial", groups) for places in (xy, xy + 1e8))
    for name, places in near.items():
        np.testing.assert_array_equal(far[name], places)


@pytest.mark.parametrize("kind", ["c16", "M8[D]"])
def test_coordinates_are_numbers_of_one_part(kind: str) -> None:
    with pytest.raises(ValueError, match=r"no numbers \(their type is .*\), but x and y are"):
        coordinates(_placed(np.ones((5, 2)).astype(kind)), "spatial", contexts(_adata()))


def test_coordinates_beyond_single_precision_are_none() -> None:
    xy = np.ones((5, 2))
    xy[0] = 1e300
    with pytest.raises(ValueError, match="1 of 5 cells of context 'all' have missing or infinite"):
        coordinates(_placed(xy), "spatial", contexts(_adata()))


def test_no_key_no_coordinates(make_adata: Callable[..., AnnData]) -> None:
    assert coordinates(make_adata(), None, contexts(make_adata())) == {}


def test_dissociated_samples_stand_beside_spatial_ones() -> None:
    xy = np.array([[0, 0], [np.nan, np.nan], [2, 2], [3, 3], [np.nan, np.nan]])
    adata = _placed(xy)
    found = coordinates(adata, "spatial", contexts(adata, "sample"))
    assert list(found) == ["tumour", "node"]
    np.testing.assert_array_equal(found["tumour"], [[0, 0], [2, 2]])


def test_third_coordinate_is_left_out_with_a_warning(logged: list[str]) -> None:
    adata = _placed(np.arange(15.0).reshape(5, 3))
    expected = [[0, 0], [3, 3], [6, 6], [9, 9], [12, 12]]
    np.testing.assert_array_equal(coordinates(adata, "spatial", contexts(adata))["all"], expected)
    assert logged == ["adata.obsm['spatial'] has 3 columns; the first two are taken as x and y."]


def test_coordinates_are_a_copy() -> None:
    adata = _placed(np.zeros((5, 2), dtype=np.float32))
    coordinates(adata, "spatial", contexts(adata))["all"][:] = 1
    assert not adata.obsm["spatial"].any()


def test_unknown_spatial_key_names_the_keys() -> None:
    adata = _adata()
    adata.obsm["X_pca"] = np.zeros((5, 2))
    with pytest.raises(ValueError, match=r"adata\.obsm has no 'spatial'; its keys: 'X_pca'\. Pass one of them"):
        coordinates(adata, "spatial", contexts(adata))


def test_one_coordinate_is_refused() -> None:
    adata = _placed(np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"has shape \(5, 1\), but positions need two columns, x and y"):
        coordinates(adata, "spatial", contexts(adata))


@pytest.mark.parametrize("as_frame", [False, True], ids=["array", "frame"])
def test_partly_missing_coordinates_are_refused_with_a_line_that_works(
    as_frame: bool, run_fix: Callable[..., AnnData]
) -> None:
    xy = np.array([[0, 0], [np.nan, 1], [2, 2], [3, np.inf], [4, 4.0]])
    adata = _placed(pd.DataFrame(xy, index=_adata().obs_names, columns=["x", "y"]) if as_frame else xy)
    with pytest.raises(ValueError, match=r"1 of 2 cells of context 'blood' have missing or infinite") as error:
        coordinates(adata, "spatial", contexts(adata, "sample"))
    mended = run_fix('adata = adata[np.isfinite(adata.obsm["spatial"]).all(axis=1)].copy()', error.value, adata)
    np.testing.assert_array_equal(coordinates(mended, "spatial", contexts(mended))["all"], [[0, 0], [2, 2], [4, 4]])


def test_coordinates_that_no_cell_has_are_refused() -> None:
    adata = _placed(np.full((5, 2), np.nan))
    with pytest.raises(
        ValueError, match=r"No cell has finite coordinates in spots\.obsm\['spatial'\].*spatial_key=None"
    ):
        coordinates(adata, "spatial", contexts(adata, "sample"), name="spots")


@pytest.mark.parametrize("as_frame", [False, True], ids=["array", "frame"])
def test_coordinates_that_are_text_are_refused_with_a_line_that_works(as_frame: bool) -> None:
    xy = np.array([["0", "1"], ["?", "2"], ["3", "4"], ["?", "?"], ["5", "6"]], dtype=object)
    adata = _placed(pd.DataFrame(xy, index=_adata().obs_names, columns=["x", "y"]) if as_frame else xy)
    with pytest.raises(ValueError, match=r"holds values that are no numbers \(.*'\?'\)") as error:
        coordinates(adata, "spatial", contexts(adata, "sample"))
    exec(str(error.value).split("stand for none: ")[1], {"adata": adata, "pd": pd})  # noqa: S102
    placed = adata[[0, 2, 4]].copy()
    np.testing.assert_array_equal(coordinates(placed, "spatial", contexts(placed))["all"], [[0, 0], [3, 3], [5, 5]])


def test_coordinates_are_scaled_with_their_proportions() -> None:
    xy = np.array([[-10, 5], [30, 5], [10, 25]], dtype=np.float32)
    np.testing.assert_array_equal(unit_coordinates(xy), np.array([[0, 0], [1, 0], [0.5, 0.5]], dtype=np.float32))
    np.testing.assert_array_equal(unit_coordinates(xy[:1]), [[0, 0]])
    assert unit_coordinates(xy).dtype == np.float32
