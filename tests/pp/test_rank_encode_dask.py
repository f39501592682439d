"""Ranks of dask arrays: nothing is read before it is asked for, and every chunk is checked when it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

da = pytest.importorskip("dask.array")


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata()


@pytest.fixture
def genes(adata: AnnData) -> GeneVocabulary:
    return GeneVocabulary(adata.var_names, medians=np.random.default_rng(0).lognormal(1, 0.6, adata.n_vars))


def in_chunks(adata: AnnData, values: Any, read: list[int] | None = None) -> AnnData:
    """Chunks of 20 cells that take down how many cells they were read for."""

    def chunk(block: np.ndarray) -> sparse.csr_matrix:
        if read is not None:
            read.append(len(block))
        return sparse.csr_matrix(block)

    dense = da.from_array(np.asarray(values), chunks=(20, 40))
    lazy = dense.map_blocks(chunk, dtype=dense.dtype, meta=sparse.csr_matrix((0, 0), dtype=dense.dtype))
    return AnnData(lazy, obs=adata.obs, var=adata.var)


def test_chunks_are_read_when_their_ranks_are(adata: AnnData, genes: GeneVocabulary) -> None:
    read: list[int] = []
    lazy = in_chunks(adata, adata.X.toarray(), read)
    sf.pp.rank_encode(lazy, genes=genes, max_length=16)
    assert read == [20]  # the first chunk, to see what the values are
    ranks = lazy.obsm["X_rank"]
    assert ranks.shape == (60, 16)
    assert ranks.chunks == ((20, 20, 20), (16,))
    assert ranks.dtype == np.int32
    sf.pp.rank_encode(adata, genes=genes, max_length=16)
    computed = ranks.compute(scheduler="threads", num_workers=3)
    assert sparse.issparse(computed)
    assert read == [20, 20, 20, 20]
    assert (computed != adata.obsm["X_rank"]).nnz == 0
    assert (ranks[25:45].compute() != adata.obsm["X_rank"][25:45]).nnz == 0


def test_leading_cells_without_counts_say_nothing_about_the_values(adata: AnnData, genes: GeneVocabulary) -> None:
    logged = np.log1p(adata.X.toarray() * 1.7)
    logged[:25] = 0
    lazy = in_chunks(adata, logged)
    sf.pp.rank_encode(lazy, genes=genes)
    assert lazy.uns["X_rank"]["provenance"]["values"] == "log1p-normalised values"
    assert lazy.obsm["X_rank"].compute()[:25].nnz == 0


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda values: -values, "scaled values"),
        (np.log1p, "log1p-normalised values"),
        (lambda values: values * 30.5, "normalised values"),
        (lambda values: values / values, r"\d+ NaN"),
    ],
    ids=["negative", "logarithms among counts", "normalised", "NaN"],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_later_chunk_of_another_kind_is_refused_when_it_is_read(
    adata: AnnData, genes: GeneVocabulary, spoil: Callable, found: str
) -> None:
    values = adata.X.toarray()
    values[40:] = spoil(values[40:])
    lazy = in_chunks(adata, values)
    sf.pp.rank_encode(lazy, genes=genes)
    assert lazy.obsm["X_rank"][:40].compute().nnz
    with pytest.raises(ValueError, match=rf"first cells hold raw counts, but a chunk of 20 cells .* holds {found}"):
        lazy.obsm["X_rank"].compute()


def test_a_first_chunk_that_is_neither_is_refused_at_once(adata: AnnData, genes: GeneVocabulary) -> None:
    lazy = in_chunks(adata, adata.X.toarray() - 1)
    with pytest.raises(ValueError, match=r"rank_encode needs raw counts or log1p-normalised values.*looks scaled"):
        sf.pp.rank_encode(lazy, genes=genes)
    assert "X_rank" not in lazy.obsm
