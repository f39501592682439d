"""Every matrix gives the same rows, in the order asked for, and stays as it was."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset
from scipy import sparse

from scfoundry.data.matrix import located
from scfoundry.data.matrix import row_blocks as _row_blocks
from scfoundry.data.matrix.loaders import read_rows, row_blocks
from scfoundry.data.matrix.located import matrix_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    AsArray = Callable[[np.ndarray], Any]

N_OBS, N_VARS = 50, 12
ON_DISK = ["h5ad_csr", "h5ad_csc", "h5ad_dense", "zarr_csr", "zarr_csc", "zarr_dense"]


@pytest.fixture(scope="module")
def counts(make_adata: Callable[..., AnnData]) -> np.ndarray:
    counts = make_adata(N_OBS, N_VARS).X.toarray()
    counts[[0, 17, N_OBS - 1]] = 0
    return counts


@pytest.fixture(params=ON_DISK)
def stored(request: pytest.FixtureRequest, counts: np.ndarray, tmp_path: Path) -> AnnData:
    return _stored(request.param, counts, tmp_path)


def _stored(kind: str, values: np.ndarray, folder: Path) -> AnnData:
    store, form = kind.split("_")
    adata = AnnData({"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[form](values))
    if store == "h5ad":
        adata.write_h5ad(folder / "adata.h5ad")
        return ad.read_h5ad(folder / "adata.h5ad", backed="r")
    adata.write_zarr(folder / "adata.zarr")
    group = zarr.open_group(folder / "adata.zarr", mode="r")
    return AnnData(group["X"] if form == "dense" else sparse_dataset(group["X"]))


def _joined(adata: AnnData, **kwargs: Any) -> np.ndarray:
    return sparse.vstack([block for _, block in row_blocks(adata, **kwargs)]).toarray()


@pytest.mark.parametrize("block_size", [1, 7, N_OBS, 1000, None])
def test_blocks_are_the_matrix_in_obs_order(as_array: AsArray, counts: np.ndarray, block_size: int | None) -> None:
    adata = AnnData(np.zeros_like(counts), layers={"counts": as_array(counts)})
    expected_start = 0
    for rows, block in row_blocks(adata, layer="counts", block_size=block_size):
        assert isinstance(block, sparse.csr_matrix)
        assert block.has_canonical_format
        assert isinstance(rows, slice)
        assert rows == slice(expected_start, expected_start + block.shape[0])
        assert block.shape == (min(block_size or N_OBS, N_OBS - expected_start), N_VARS)
        np.testing.assert_array_equal(block.toarray(), counts[rows])
        expected_start = rows.stop
    assert expected_start == N_OBS


@pytest.mark.parametrize("block_size", [1, 7, 1000, None])
def test_files_give_the_same_blocks(stored: AnnData, counts: np.ndarray, block_size: int | None) -> None:
    sizes = [block.shape[0] for _, block in row_blocks(stored, block_size=block_size)]
    assert sizes[:-1] == [block_size] * (len(sizes) - 1)
    np.testing.assert_array_equal(_joined(stored, block_size=block_size), counts)


@pytest.mark.parametrize("dtype", ["uint16", "int64", "float32", "float64"])
def test_values_keep_their_type(as_array: AsArray, counts: np.ndarray, dtype: str) -> None:
    adata = AnnData(as_array(counts.astype(dtype)))
    assert {block.dtype for _, block in row_blocks(adata, block_size=20)} == {np.dtype(dtype)}
    assert read_rows(adata, np.array([], dtype=int)).dtype == dtype
    np.testing.assert_array_equal(read_rows(adata, np.arange(N_OBS)).toarray(), counts.astype(dtype))


def test_truths_become_small_integers(as_array: AsArray, counts: np.ndarray) -> None:
    block = read_rows(AnnData(as_array(counts > 0)), np.arange(N_OBS))
    assert block.dtype == np.uint8
    np.testing.assert_array_equal(block.toarray(), counts > 0)


def test_half_precision_becomes_float32(counts: np.ndarray) -> None:
    block = read_rows(AnnData(counts.astype(np.float16)), np.arange(N_OBS))
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block.toarray(), counts)


ROWS = {
    "shuffled": np.random.default_rng(0).permutation(N_OBS),
    "ascending": np.array([0, 3, 4, 5, 17, 30, 49]),
    "consecutive": np.arange(10, 20, dtype=np.int32),
    "repeated": np.array([49, 2, 2, 0, 49]),
    "none": np.array([], dtype=int),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_rows_come_in_the_order_asked_for(as_array: AsArray, counts: np.ndarray, rows: np.ndarray) -> None:
    _check_rows(AnnData(as_array(counts)), counts, rows)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_rows_of_files_come_in_the_order_asked_for(stored: AnnData, counts: np.ndarray, rows: np.ndarray) -> None:
    _check_rows(stored, counts, rows)


def _check_rows(adata: AnnData, values: np.ndarray, rows: np.ndarray) -> None:
    np.testing.assert_array_equal(read_rows(adata, rows).toarray(), values[rows])
    blocks = list(row_blocks(adata, rows=rows, block_size=4))
    assert [block.shape[0] for _, block in blocks] == [len(rows[i : i + 4]) for i in range(0, len(rows), 4)]
    for index, block in blocks:
        np.testing.assert_array_equal(block.toarray(), values[index])
    if blocks:
        np.testing.assert_array_equal(np.concatenate([index for index, _ in blocks]), rows)


SELECTIONS = {
    "cell mask": (np.arange(N_OBS) % 3 == 0, slice(None)),
    "gene mask": (slice(None), np.arange(N_VARS) % 2 == 0),
    "slices": (slice(5, 40), slice(2, 9)),
    "reversed": (slice(None, None, -1), slice(None)),
    "shuffled": (np.random.default_rng(1).permutation(N_OBS)[:30], np.random.default_rng(2).permutation(N_VARS)[:5]),
    "one cell": (7, slice(None)),
}


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())
def test_views(as_array: AsArray, counts: np.ndarray, selection: tuple[Any, Any]) -> None:
    view = AnnData(as_array(counts), layers={"twice": as_array(2 * counts)})[selection]
    assert view.is_view
    expected = np.atleast_2d(counts[selection[0]])[:, selection[1]]
    for block_size in (3, None):
        np.testing.assert_array_equal(_joined(view, block_size=block_size), expected)
        np.testing.assert_array_equal(_joined(view, layer="twice", block_size=block_size), 2 * expected)
    _check_rows(view, expected, np.arange(view.n_obs)[::-1])
    assert view.is_view


@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())
def test_views_of_files(stored: AnnData, counts: np.ndarray, selection: tuple[Any, Any]) -> None:
    view = stored[selection]
    expected = np.atleast_2d(counts[selection[0]])[:, selection[1]]
    np.testing.assert_array_equal(_joined(view, block_size=3), expected)
    _check_rows(view, expected, np.arange(view.n_obs)[::-1])


def test_view_of_a_view(as_array: AsArray, counts: np.ndarray) -> None:
    view = AnnData(as_array(counts))[10:40][::-2, [3, 1]]
    np.testing.assert_array_equal(_joined(view, block_size=4), counts[10:40][::-2][:, [3, 1]])


def test_lazily_read_data(counts: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    adata = AnnData(sparse.csr_matrix(counts))
    adata.write_h5ad(tmp_path / "adata.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "adata.h5ad")
    np.testing.assert_array_equal(_joined(lazy, block_size=7), counts)
    np.testing.assert_array_equal(_joined(lazy[20:3:-1], block_size=7), counts[20:3:-1])


def test_sparse_entries_out_of_order_or_stored_twice_are_put_right() -> None:
    # Row 0 holds column 1 before column 0, row 1 holds column 1 in two parts.
    messy = sparse.csr_matrix((np.array([5.0, 4, 1, 2]), [1, 0, 1, 1], [0, 2, 4]), shape=(2, 2))
    adata = AnnData(messy)
    ((_, block),) = row_blocks(adata)
    assert block.has_canonical_format
    np.testing.assert_array_equal(block.toarray(), [[4, 5], [0, 3]])
    np.testing.assert_array_equal(adata.X.indices, [1, 0, 1, 1])


def test_reading_leaves_the_anndata_as_it_was(as_array: AsArray, make_adata: Callable[..., AnnData]) -> None:
    adata = make_adata(N_OBS, N_VARS)
    adata.X = as_array(adata.X.toarray())
    adata.uns["note"] = {"a": 1}
    before, dense = adata.copy(), make_adata(N_OBS, N_VARS).X.toarray()
    matrix = adata.X
    for target in (adata, adata[10:, :5]):
        for _, block in row_blocks(target, block_size=1000):
            if block.data.flags.writeable:  # a block belongs to whoever asked for it, or is the matrix itself
                block.data[:] = 99
        read_rows(target, np.arange(target.n_obs)).data[:] = 99
    assert adata.X is matrix
    np.testing.assert_array_equal(_joined(adata), dense)
    assert adata.uns == before.uns
    assert list(adata.obs) == list(before.obs)
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)
    assert set(adata.obsm) == {"spatial"}
    assert not adata.layers


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "csr_array", "csc_array", "dask_csr", *ON_DISK])
def test_sparse_is_never_made_dense(
    kind: str, counts: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in ON_DISK:
        adata = _stored(kind, counts, tmp_path)
    elif kind == "dask_csr":
        chunks = pytest.importorskip("dask.array").from_array(counts, chunks=(20, 5))
        adata = AnnData(chunks.map_blocks(sparse.csr_matrix).persist())
    else:
        adata = AnnData(getattr(sparse, kind)(counts))

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("made dense")

    for sparse_type in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array, sparse.coo_matrix):
        for method in ("toarray", "todense"):
            monkeypatch.setattr(sparse_type, method, refuse)
    total = sum(block.sum() for _, block in row_blocks(adata, block_size=7))
    total += sum(block.sum() for _, block in row_blocks(adata[::-1, 3:], block_size=7))
    assert total + read_rows(adata, np.array([4, 1])).sum() == counts.sum() + counts[:, 3:].sum() + counts[[4, 1]].sum()


def test_every_dask_chunk_is_computed_once(counts: np.ndarray) -> None:
    dask_array = pytest.importorskip("dask.array")
    computed = []

    def record(chunk: np.ndarray) -> np.ndarray:
        computed.append(chunk.shape)
        return chunk

    chunks = dask_array.from_array(counts, chunks=(20, 5)).map_blocks(record, meta=np.empty((0, 0), counts.dtype))
    adata = AnnData(chunks)
    np.testing.assert_array_equal(_joined(adata, block_size=7), counts)
    assert len(computed) == 3 * 3
    computed.clear()
    np.testing.assert_array_equal(_joined(adata[25:30], block_size=2), counts[25:30])
    assert len(computed) == 3


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize("viewed", [False, True], ids=["whole", "view"])
def test_memory_of_streaming_a_file_is_bounded(
    form: str, viewed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_obs, n_vars = 8000, 500
    values = np.random.default_rng(0).integers(1, 100, size=(n_obs, n_vars)).astype(np.float32)
    values[:, ::2] = 0
    adata = _stored(f"h5ad_{form}", values, tmp_path)
    whole = 8 * np.count_nonzero(values)  # as CSR: 4 bytes of value, 4 bytes of column index
    total = float(values.sum(dtype=np.float64))
    del values
    monkeypatch.setattr(_row_blocks, "BLOCK_VALUES", 2**15)
    monkeypatch.setattr(_row_blocks, "_PASS_VALUES", 2**18)
    if viewed:
        adata = adata[::-1, np.arange(n_vars) > 0]
    tracemalloc.start()
    streamed = sum(block.sum(dtype=np.float64) for _, block in row_blocks(adata))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert streamed == total
    assert peak < whole / 2


def test_default_blocks_hold_a_bounded_number_of_values(
    as_array: AsArray, counts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_row_blocks, "BLOCK_VALUES", 100)
    sizes = [block.shape[0] for _, block in row_blocks(AnnData(as_array(counts)))]
    assert len(sizes) > 1
    # Of a dense matrix a quarter of the values are taken to be stored.
    assert max(sizes) * N_VARS * min(np.count_nonzero(counts) / counts.size, 1 / 4) <= 100
    monkeypatch.setattr(_row_blocks, "BLOCK_VALUES", 1)
    assert {block.shape[0] for _, block in row_blocks(AnnData(as_array(counts)))} == {1}


def test_matrix_of_hands_out_the_array_itself(as_array: AsArray, counts: np.ndarray) -> None:
    adata = AnnData(as_array(counts), layers={"twice": as_array(2 * counts)})
    assert matrix_of(adata) is adata.X
    assert matrix_of(adata, "twice") is adata.layers["twice"]


def test_unknown_layer_names_those_that_exist(counts: np.ndarray) -> None:
    adata = AnnData(counts, layers={"spliced": counts, "unspliced": counts})
    adata.raw = adata
    message = r"no 'counts'; layers of this AnnData: 'spliced', 'unspliced'\. Pass one of them, or None for adata\.X"
    for read in (lambda: matrix_of(adata, "counts"), lambda: row_blocks(adata[:3], layer="counts")):
        with pytest.raises(ValueError, match=message):
            read()
    with pytest.raises(ValueError, match="layers of this AnnData: none"):
        row_blocks(AnnData(counts), layer="counts")


def test_missing_x_names_the_layers(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"adata\.X is None and no layer was chosen.*'counts'"):
        row_blocks(AnnData(layers={"counts": counts}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([0, N_OBS]), r"between 0 and 49, the last cell of adata; got 0 to 50"),
        (np.array([-1, 2]), r"got -1 to 2"),
        (np.ones(N_OBS, dtype=bool), r"got bool of shape \(50,\)\. For a boolean mask pass np\.flatnonzero\(mask\)"),
        (np.array([[0, 1]]), r"shape \(1, 2\)"),
        (np.array([0.5]), r"got float64"),
    ],
)
def test_impossible_rows(counts: np.ndarray, rows: np.ndarray, message: str) -> None:
    for read in (lambda: row_blocks(AnnData(counts), rows=rows), lambda: read_rows(AnnData(counts), rows)):
        with pytest.raises(ValueError, match=message):
            read()


def test_impossible_block_size(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="block_size must be at least 1 cell; got 0"):
        row_blocks(AnnData(counts), block_size=0)


def test_unreadable_matrix_says_how_to_convert_it(counts: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(located, "matrix_of", lambda *_: "not a matrix")
    with pytest.raises(TypeError, match=r"adata\.X is a builtins\.str.*adata\.X = scipy\.sparse\.csr_matrix"):
        row_blocks(AnnData(counts))
