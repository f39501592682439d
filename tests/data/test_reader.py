from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import scanpy as sc
from anndata import read_h5ad
from anndata.io import sparse_dataset
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.data.matrix.row_blocks import blocks_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

ALL = np.arange(20)


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata(20, 12)


@pytest.fixture
def vocabulary(make_adata: Callable[..., AnnData]) -> GeneVocabulary:
    """The genes of the data in reverse, and five that they lack."""
    return GeneVocabulary(make_adata(1, 17).var_names[::-1])


def read(adata: AnnData, vocabulary: GeneVocabulary, rows: np.ndarray) -> np.ndarray:
    return CountsReader(adata, vocabulary, caller="test").read(rows).toarray()


def test_counts_come_in_the_order_of_the_vocabulary(adata: AnnData, vocabulary: GeneVocabulary) -> None:
    rows = np.array([7, 2, 2])
    expected = np.hstack([np.zeros((3, 5)), adata.X[rows].toarray()[:, ::-1]])
    np.testing.assert_array_equal(read(adata, vocabulary, rows), expected)
    reader = CountsReader(adata, vocabulary, caller="test")
    blocks = [block.toarray() for block in reader.blocks(np.arange(20), 6)]
    assert [len(block) for block in blocks] == [6, 6, 6, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), read(adata, vocabulary, np.arange(20)))


def test_the_array_type_does_not_matter(adata: AnnData, vocabulary: GeneVocabulary, as_array: Callable) -> None:
    expected = read(adata, vocabulary, np.arange(20))
    adata.X = as_array(adata.X.toarray())
    np.testing.assert_array_equal(read(adata, vocabulary, np.arange(20)), expected)


@pytest.fixture
def n_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that are read from matrices, whoever asks for them."""
    numbers: list[int] = []

    def counted(matrix: object, rows: np.ndarray, *how: object) -> object:
        numbers.append(len(rows))
        return blocks_of(matrix, rows, *how)

    monkeypatch.setattr("scfoundry.data.matrix.located.blocks_of", counted)
    return numbers


def test_what_fits_in_memory_is_read_once(adata: AnnData, vocabulary: GeneVocabulary, n_read: list[int]) -> None:
    reader = CountsReader(adata, vocabulary, caller="test")
    blocks = [*reader.blocks(np.arange(20), 7), reader.read(np.array([3, 1])), reader.only(np.arange(9)).read(ALL)]
    assert [block.shape[0] for block in blocks] == [7, 7, 6, 2, 20]
    assert n_read == [20]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scfoundry.data.matrix.reader.HELD_VALUES", 30)
        larger = CountsReader(adata, vocabulary, caller="test")
        again = [*larger.blocks(np.arange(20), 7), larger.read(np.array([3, 1])), larger.only(np.arange(9)).read(ALL)]
    assert n_read == [20, 20, 20, 2, 20]
    for block, other in zip(blocks, again, strict=True):
        np.testing.assert_array_equal(block.toarray(), other.toarray())


def test_what_the_first_cells_seem_to_hold_may_turn_out_wrong(vocabulary: GeneVocabulary, adata: AnnData) -> None:
    logged = adata.copy()
    sc.pp.log1p(logged)
    logged.X[:4] = 0
    logged.X[4:8] = (logged.X[4:8] > 0).astype(np.float32)
    expected = np.expm1(logged.X.toarray()[:, ::-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scfoundry.data.matrix.row_blocks.BLOCK_VALUES", 30)
        found = read(logged, vocabulary, ALL)
    np.testing.assert_allclose(found[:, 5:], expected, rtol=1e-5)


def test_a_view_of_data_on_disk_is_read_in_blocks(
    adata: AnnData, vocabulary: GeneVocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    view = read_h5ad(tmp_path / "cells.h5ad", backed="r")[5:15]
    expected = read(adata, vocabulary, np.arange(5, 15))
    monkeypatch.setattr(type(view), "X", property(lambda adata: pytest.fail("read whole") if adata.is_view else disk))
    with h5py.File(tmp_path / "cells.h5ad") as file:
        disk = sparse_dataset(file["X"])
        np.testing.assert_array_equal(read(view, vocabulary, np.arange(10)), expected)


def test_log_normalised_values_are_inverted(adata: AnnData, vocabulary: GeneVocabulary) -> None:
    expected = read(adata, vocabulary, np.arange(20))
    sc.pp.log1p(adata)
    np.testing.assert_allclose(read(adata, vocabulary, np.arange(20)), expected, rtol=1e-5)


def test_the_own_genes_of_a_data_set_are_read_whether_known_or_not(adata: AnnData, vocabulary: GeneVocabulary) -> None:
    adata.var_names = [*adata.var_names[:-2], "spike-in", "spike-in"]
    reader = CountsReader(adata, vocabulary, caller="test").take(np.array([7, 2]))
    np.testing.assert_array_equal(
        reader.own_columns(np.array([11, 0])).toarray(), adata.X[[7, 2]][:, [11, 0]].toarray()
    )


def test_mouse_data_are_told_what_share_of_their_counts_is_read(adata: AnnData, logged: list[str]) -> None:
    """Weighed by counts, not by genes; human data are told nothing."""
    human = sf.datasets.human_genes()
    genes = human[~human["mouse_symbol"].isin(["", ","]) & (human["biotype"] == "protein_coding")].index[:12]
    vocabulary = GeneVocabulary(genes)
    adata.var_names = genes
    CountsReader(adata, vocabulary, caller="sf.tl.embed")
    assert not logged
    adata.var_names = [*human.loc[genes[:-1], "mouse_symbol"].str.split(",").str[-1], "Gm99999"]
    counts = adata.X.toarray()
    counts[:, -1] = counts[:, :-1].sum(1)
    for X in (counts, np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)):
        adata.X = sparse.csr_matrix(X.astype(np.float32))
        CountsReader(adata, vocabulary, caller="sf.tl.embed")
        assert logged[-1] == (
            "sf.tl.embed: mouse genes are read as their one-to-one human orthologs; 50% of the counts are of genes "
            "with one that the model knows."
        )
        assert sum("orthologs" in message for message in logged) == 1
        logged.clear()


def test_a_smaller_panel_hides_counts_and_nothing_else(adata: AnnData, vocabulary: GeneVocabulary) -> None:
    before = adata.X.copy()
    reader = CountsReader(adata, vocabulary, caller="test")
    everything = reader.read(np.arange(20)).toarray()
    shown = np.array([16, 6, 9])
    smaller = reader.only(shown)
    expected = np.zeros_like(everything)
    expected[:, shown] = everything[:, shown]
    for counts in (smaller.read(np.arange(20)), sparse.vstack(list(smaller.blocks(np.arange(20), 7)))):
        np.testing.assert_array_equal(counts.toarray(), expected)
        assert counts.nnz == np.count_nonzero(expected)
    np.testing.assert_array_equal(reader.read(np.arange(20)).toarray(), everything)
    assert (before != adata.X).nnz == 0
    assert reader.only(np.array([], dtype=int)).read(np.arange(20)).nnz == 0
    np.testing.assert_array_equal(smaller.only(np.arange(17)).read(np.arange(20)).toarray(), everything)
