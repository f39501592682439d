"""Bins of expression: the definition, and what plays no part in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData, read_h5ad
from cases import log_normalised
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix import row_blocks as _row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIES = ("mid", "low", "high", "random")


@pytest.fixture(scope="module")
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    """60 cells x 120 genes; cell 7 is empty, cell 8 expresses one gene, the counts of cell 9 all tie."""
    adata = make_adata(n_vars=120)
    counts = adata.X.toarray()
    counts[7:9] = 0
    counts[8, 3] = 2
    counts[9] = counts[9] > 0
    adata.X = sparse.csr_matrix(counts)
    return adata


def bins_of(adata: AnnData, **kwargs: Any) -> np.ndarray:
    """Bins, cells x genes."""
    binned = sf.pp.bin_expression(adata, copy=True, **kwargs)
    bins = (binned.layers if kwargs.get("genes") is None else binned.obsm)["X_binned"]
    bins = bins.compute() if hasattr(bins, "compute") else bins
    return sparse.csr_matrix(bins).toarray()


def suiting(counts: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest bin of every value by the definition, cell by cell in numpy."""
    lowest, highest = np.zeros((2, *counts.shape), dtype=int)
    for i, cell in enumerate(counts.astype(float)):
        expressed = cell > 0
        if expressed.any():
            edges = np.quantile(cell[expressed], np.linspace(0, 1, n_bins - 1))
            highest[i] = np.searchsorted(edges, cell, "right") * expressed
            lowest[i] = np.minimum(np.searchsorted(edges, cell, "left") + 1, highest[i]) * expressed
    return lowest, highest


@pytest.mark.parametrize("n_bins", [3, 8, 51, 300])
def test_a_bin_is_the_number_of_edges_up_to_the_value(adata: AnnData, n_bins: int) -> None:
    lowest, highest = suiting(adata.X.toarray(), n_bins)
    np.testing.assert_array_equal(bins_of(adata, n_bins=n_bins, ties="low"), lowest)
    np.testing.assert_array_equal(bins_of(adata, n_bins=n_bins, ties="high"), highest)
    np.testing.assert_array_equal(bins_of(adata, n_bins=n_bins), (lowest + highest) // 2)
    drawn = bins_of(adata, n_bins=n_bins, ties="random").astype(int)
    assert ((lowest <= drawn) & (drawn <= highest)).all()


def test_values_beyond_those_that_are_counted_are_sorted(adata: AnnData) -> None:
    large = adata.copy()
    large.X = large.X * 977
    for ties in TIES:
        np.testing.assert_array_equal(bins_of(large, ties=ties), bins_of(adata, ties=ties))


def test_draws_are_even_and_differ_from_cell_to_cell(make_adata: Callable[..., AnnData]) -> None:
    adata = make_adata(300, 160)
    adata.X.data[:] = 1
    drawn = bins_of(adata, ties="random")
    times = np.bincount(drawn[drawn > 0], minlength=51)[1:]
    assert times.min() > 0.8 * times.mean()
    assert times.max() < 1.2 * times.mean()
    gene = np.argmax((drawn > 0).sum(0))
    assert len(np.unique(drawn[drawn[:, gene] > 0, gene])) > 30


def test_what_is_written(adata: AnnData, tmp_path: Path) -> None:
    cells = adata.copy()
    assert sf.pp.bin_expression(cells, layer=None) is None
    bins = cells.layers["X_binned"]
    assert isinstance(bins, sparse.csr_matrix)
    assert bins.dtype == np.uint16
    assert bins.shape == adata.shape
    assert (bins != 0).nnz == bins.nnz == adata.X.nnz
    assert bins.max() == 50
    assert cells.uns["X_binned"] == {
        "params": {"n_bins": 51, "ties": "mid"},
        "provenance": {"values": "raw counts"},
    }
    assert not cells.obsm.keys() - adata.obsm.keys()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert (read_h5ad(tmp_path / "cells.h5ad").layers["X_binned"] != bins).nnz == 0


def test_nothing_else_is_changed(adata: AnnData) -> None:
    before = adata.copy()
    copied = sf.pp.bin_expression(adata, key_added="bins", copy=True)
    assert "bins" in copied.layers
    assert "bins" in copied.uns
    assert set(adata.uns) == set(before.uns)
    assert not {name for name in adata.layers if name is not None}
    assert (adata.X != before.X).nnz == 0


@pytest.mark.parametrize("ties", TIES)
def test_order_type_and_depth_play_no_part(adata: AnnData, ties: str, as_array: Callable) -> None:
    expected = bins_of(adata, ties=ties)
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    np.testing.assert_array_equal(bins_of(adata[cells, genes], ties=ties), expected[cells][:, genes])
    stored = AnnData(obs=adata.obs, var=adata.var, layers={"counts": as_array(adata.X.toarray())})
    np.testing.assert_array_equal(bins_of(stored, layer="counts", ties=ties), expected)
    np.testing.assert_array_equal(bins_of(log_normalised(adata), ties=ties), expected)


def test_values_that_scanpy_has_normalised_have_the_same_bins(adata: AnnData) -> None:
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    for ties in TIES:
        np.testing.assert_array_equal(bins_of(logged, ties=ties), bins_of(adata, ties=ties))


@pytest.mark.parametrize("backing", ["h5ad", "blocks of 3 cells"])
def test_blocks_of_cells_play_no_part(
    adata: AnnData, backing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = adata
    if backing == "h5ad":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        cells = read_h5ad(tmp_path / "cells.h5ad", backed="r")
    expected = bins_of(adata, ties="random")
    monkeypatch.setattr(_row_blocks, "BLOCK_VALUES", 200)
    np.testing.assert_array_equal(bins_of(cells, ties="random"), expected)
    cells = cells if backing == "h5ad" else adata.copy()
    sf.pp.bin_expression(cells, ties="random")  # without a copy, which is in memory
    np.testing.assert_array_equal(cells.layers["X_binned"].toarray(), expected)


def test_a_dask_array_is_read_when_the_result_is(adata: AnnData) -> None:
    da = pytest.importorskip("dask.array")
    values = adata.X.toarray()
    values[50:] *= 1.5  # counts no more: what the first chunk said of all is wrong
    lazy = AnnData(da.from_array(values, chunks=(20, 50)).map_blocks(sparse.csr_matrix), var=adata.var)
    sf.pp.bin_expression(lazy)
    bins = lazy.layers["X_binned"]
    np.testing.assert_array_equal(bins[:40].compute().toarray(), bins_of(adata)[:40])
    with pytest.raises(ValueError, match=r"sf.pp.bin_expression: the first cells hold raw counts, but a chunk"):
        bins.compute()


def test_genes_of_a_vocabulary_alone_are_read_in_its_order(adata: AnnData, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    chosen = rng.permutation(120)[:80]
    genes = GeneVocabulary([*adata.var_names[chosen], "ENSG00000999999"])
    expected = np.c_[bins_of(adata[:, chosen].copy()), np.zeros(60)]
    np.testing.assert_array_equal(bins_of(adata, genes=genes), expected)
    np.testing.assert_array_equal(bins_of(log_normalised(adata), genes=genes), expected)
    genes.write(tmp_path / "genes.tsv")
    np.testing.assert_array_equal(bins_of(adata, genes=tmp_path), expected)
    cells = sf.pp.bin_expression(adata, genes=genes, copy=True)
    assert cells.uns["X_binned"]["provenance"]["genes"]["n_kept"] == 80


def test_counts_of_columns_with_one_gene_are_summed(adata: AnnData) -> None:
    halves = adata.X.toarray()
    other = halves // 2
    doubled = AnnData(sparse.csr_matrix(np.hstack([halves - other, other])))
    doubled.var_names = [*adata.var_names, *(f"{name}.2" for name in adata.var_names)]
    genes = GeneVocabulary(adata.var_names)
    for ties in TIES:
        np.testing.assert_array_equal(bins_of(doubled, genes=genes, ties=ties), bins_of(adata, ties=ties))


def test_bad_input_is_named_with_its_fix(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"n_bins must be from 3 to .*; got 2.*n_bins=51"):
        sf.pp.bin_expression(adata, n_bins=2)
    with pytest.raises(ValueError, match=r"ties must be one of 'mid', .*; got 'first'"):
        sf.pp.bin_expression(adata, ties="first")
    with pytest.raises(FileNotFoundError, match=r"holds neither genes.tsv .* nor vocab.json"):
        sf.pp.bin_expression(adata, genes=tmp_path)
    scaled = adata.copy()
    scaled.X = scaled.X.toarray() - 1
    with pytest.raises(ValueError, match=r"sf\.pp\.bin_expression needs raw counts or log1p.*looks scaled"):
        sf.pp.bin_expression(scaled)
    strangers = adata.copy()
    strangers.var_names = [f"gene {i}" for i in range(120)]
    with pytest.raises(ValueError, match=r"Only 0 of 120 genes of the data are among"):
        sf.pp.bin_expression(strangers, genes=GeneVocabulary(adata.var_names))
