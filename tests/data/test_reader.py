from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.reader import CountsReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


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
