from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

import scfoundry as sf
from scfoundry._compat import layer_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LAYERS = ("train", "test_mask", "valid_mask")


@pytest.fixture
def counts() -> np.ndarray:
    """30 cells x 60 genes."""
    return np.random.default_rng(0).negative_binomial(0.7, 0.1, (30, 60)).astype(np.float32)


def hidden(adata: AnnData, **options: object) -> list[np.ndarray]:
    """Training counts, test mask and validation mask."""
    result = sf.pp.simulate_dropout(adata, copy=True, **options)
    return [result.layers[name].toarray() for name in LAYERS]


def test_shares_are_hidden_per_cell_and_the_parts_make_up_the_counts(counts: np.ndarray) -> None:
    train, test, valid = hidden(AnnData(counts), test=0.25, valid=0.15)
    n_genes = (counts > 0).sum(axis=1)
    np.testing.assert_array_equal(test.sum(axis=1), n_genes // 4)
    np.testing.assert_array_equal(valid.sum(axis=1), np.floor(0.15 * n_genes))
    assert not (test & valid).any()
    assert (counts[test | valid] > 0).all()
    np.testing.assert_array_equal(train, np.where(test | valid, 0, counts))


def test_low_counts_are_hidden_more_often_unless_the_kernel_is_uniform() -> None:
    counts = np.tile([1.0, 60.0], (200, 20)).astype(np.float32)
    low = counts == 1
    _, test, _ = hidden(AnnData(counts))
    assert test[low].sum() > 10 * test[~low].sum()
    _, test, _ = hidden(AnnData(counts), kernel="uniform")
    assert test[low].sum() < 1.5 * test[~low].sum()
    _, test, _ = hidden(AnnData(counts), scale=1e6)
    assert test[low].sum() < 1.5 * test[~low].sum()


def test_cells_with_few_genes_stay_complete() -> None:
    counts = np.eye(2, 10, dtype=np.float32)
    counts[0, :5], counts[1, :6] = 3, 3
    _, test, _ = hidden(AnnData(counts), test=0.2)
    assert test.sum(axis=1).tolist() == [0, 1]
    _, test, _ = hidden(AnnData(counts), test=0.2, min_genes=5)
    assert test.sum(axis=1).tolist() == [1, 1]


def test_counts_beyond_the_reach_of_the_kernel_can_still_be_drawn() -> None:
    train, test, valid = hidden(AnnData(np.full((3, 20), 50_000.0, dtype=np.float32)), test=0.5, valid=0.4)
    assert (test.sum(), valid.sum(), (train > 0).sum()) == (30, 24, 6)


def test_the_array_type_does_not_matter(counts: np.ndarray, as_array: Callable) -> None:
    adata = AnnData(counts)
    adata.layers["counts"] = as_array(counts)
    for got, expected in zip(hidden(adata, layer="counts"), hidden(AnnData(counts)), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_backed_and_views_give_the_same(counts: np.ndarray, tmp_path: Path) -> None:
    expected = hidden(AnnData(counts))
    twice = AnnData(sparse.csr_matrix(np.hstack([counts, counts])))
    AnnData(sparse.csr_matrix(counts)).write_h5ad(tmp_path / "cells.h5ad")
    for adata in (twice[:, :60], read_h5ad(tmp_path / "cells.h5ad", backed="r")):
        for got, wanted in zip(hidden(adata), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_the_block_size_does_not_matter(counts: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hidden(AnnData(counts))
    monkeypatch.setattr("scfoundry.data.matrix.row_blocks.BLOCK_VALUES", 7 * counts.shape[1])
    for got, wanted in zip(hidden(AnnData(counts)), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_stored_zeros_are_not_expressed(counts: np.ndarray) -> None:
    stored = sparse.csr_matrix(counts + 1)
    stored.data -= 1
    for got, wanted in zip(hidden(AnnData(stored)), hidden(AnnData(counts)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert stored.nnz == counts.size


def test_in_place_writes_the_documented_slots_only(counts: np.ndarray) -> None:
    adata = AnnData(sparse.csr_matrix(counts))
    before = adata.X.copy()
    assert sf.pp.simulate_dropout(adata) is None
    assert set(layer_names(adata)) == set(LAYERS)
    assert list(adata.uns) == ["simulate_dropout"]
    assert adata.uns["simulate_dropout"]["params"]["rng"] == 10
    assert [adata.layers[name].dtype for name in LAYERS] == [np.float32, bool, bool]
    np.testing.assert_array_equal(adata.X.toarray(), before.toarray())


def test_a_copy_leaves_the_object_alone(counts: np.ndarray) -> None:
    adata = AnnData(counts)
    assert sf.pp.simulate_dropout(adata, copy=True) is not adata
    assert not adata.layers
    assert not adata.uns


def test_the_result_survives_a_file(counts: np.ndarray, tmp_path: Path) -> None:
    adata = sf.pp.simulate_dropout(AnnData(counts), rng=np.random.default_rng(0), copy=True)
    adata.write_h5ad(tmp_path / "held_out.h5ad")
    loaded = read_h5ad(tmp_path / "held_out.h5ad")
    for name in LAYERS:
        assert (loaded.layers[name] != adata.layers[name]).nnz == 0
    assert loaded.layers["test_mask"].dtype == bool


def test_seeds_and_generators(counts: np.ndarray) -> None:
    def draw(rng: object) -> bytes:
        return hidden(AnnData(counts), rng=rng)[1].tobytes()

    assert draw(1) == draw(1) == draw(np.random.default_rng(1)) != draw(2)
    generator = np.random.default_rng(1)
    assert draw(generator) != draw(generator)


def test_what_is_hidden_can_be_scored(counts: np.ndarray) -> None:
    adata = sf.pp.simulate_dropout(AnnData(counts), copy=True)
    errors = [
        sf.metrics.denoising(adata.X, guess, adata.layers["test_mask"]).loc["predicted", "rmse"]
        for guess in (adata.layers["train"], adata.X)
    ]
    assert errors[0] > errors[1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 0}, "test=0 and valid=0.1 must be shares"),
        ({"test": 10}, "test=10 and valid=0.1 must be shares"),
        ({"test": 0.6, "valid": 0.4}, "less than 1 together"),
        ({"kernel": "gaussian"}, "kernel must be one of 'exponential', 'uniform'; got 'gaussian'"),
        ({"scale": 0}, "scale must be a count above 0; got 0"),
        ({"min_genes": 0}, "min_genes must be at least 1; got 0"),
        ({"layer": "counts"}, r"adata.layers has no 'counts'"),
    ],
)
def test_bad_arguments_are_named_with_their_fix(counts: np.ndarray, options: dict[str, object], message: str) -> None:
    adata = AnnData(counts)
    with pytest.raises(ValueError, match=message):
        sf.pp.simulate_dropout(adata, **options)
    assert not adata.layers


def test_log_normalised_values_are_refused(counts: np.ndarray) -> None:
    adata = AnnData(np.log1p(counts), layers={"counts": counts})
    with pytest.raises(ValueError, match=r'sf.pp.simulate_dropout needs raw counts.*pass layer="counts"'):
        sf.pp.simulate_dropout(adata)
