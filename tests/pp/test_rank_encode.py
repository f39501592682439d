from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData, read_h5ad
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix import row_blocks as _row_blocks
from scfoundry.data.tokens import ranks as tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    """60 cells x 120 genes; cell 7 expresses only a gene that the vocabulary does not have."""
    adata = make_adata(n_vars=120)
    counts = adata.X.toarray()
    counts[7] = 0
    counts[7, 0] = 3
    adata.X = sparse.csr_matrix(counts)
    return adata


@pytest.fixture(scope="module")
def genes(adata: AnnData) -> GeneVocabulary:
    """100 of the 120 genes in an order of their own, and 20 that are not measured."""
    rng = np.random.default_rng(3)
    ids = [*rng.permutation(adata.var_names[20:]), *(f"ENSG00000{9e5 + i:06.0f}" for i in range(20))]
    order = rng.permutation(len(ids))
    # No two ratios of counts below a hundred are equal or nearly so.
    return GeneVocabulary(np.array(ids)[order], medians=rng.lognormal(1, 0.6, len(ids)))


def ranked(adata: AnnData, genes: GeneVocabulary, **kwargs: object) -> list[list[int]]:
    """Tokens of every cell."""
    encoded = sf.pp.rank_encode(adata, genes=genes, copy=True, **kwargs)
    ranks = encoded.obsm["X_rank"]
    ranks = sparse.csr_matrix(ranks.compute() if hasattr(ranks, "compute") else ranks)
    return [ranks.data[start:stop].tolist() for start, stop in itertools.pairwise(ranks.indptr)]


def by_definition(adata: AnnData, genes: GeneVocabulary) -> list[list[int]]:
    position = genes.index_of(adata.var_names)
    cells = []
    for cell in adata.X.toarray():
        ratios = {position[j]: cell[j] / genes.medians[position[j]] for j in np.flatnonzero(cell) if position[j] >= 0}
        cells.append([int(gene) + 2 for gene in sorted(ratios, key=lambda gene: (-ratios[gene], gene))])
    return cells


def test_genes_in_descending_order_of_count_over_median(adata: AnnData, genes: GeneVocabulary) -> None:
    expected = by_definition(adata, genes)
    assert ranked(adata, genes) == expected
    assert expected[7] == []
    assert min(map(len, expected[:7])) > 10


def test_what_is_written(adata: AnnData, genes: GeneVocabulary, tmp_path: Path) -> None:
    cells = adata.copy()
    assert sf.pp.rank_encode(cells, genes=genes, max_length=64) is None
    ranks, written = cells.obsm["X_rank"], cells.uns["X_rank"]
    assert isinstance(ranks, sparse.csr_matrix)
    assert ranks.dtype == np.int32
    assert ranks.shape == (60, 64)
    for start, stop in itertools.pairwise(ranks.indptr):
        assert ranks.indices[start:stop].tolist() == list(range(stop - start))
    assert written["params"] == {"max_length": 64}
    provenance = written["provenance"]
    assert provenance["values"] == "raw counts"
    assert provenance["vocabulary"] == tokens.checksum(genes)
    assert provenance["genes"]["n_vocabulary"] == 120
    assert provenance["genes"]["overlap"] == 100 / 120
    cells.write_h5ad(tmp_path / "cells.h5ad")
    back = read_h5ad(tmp_path / "cells.h5ad")
    assert (back.obsm["X_rank"] != ranks).nnz == 0
    assert back.uns["X_rank"]["provenance"]["vocabulary"] == provenance["vocabulary"]


def test_nothing_else_is_changed(adata: AnnData, genes: GeneVocabulary) -> None:
    before = adata.copy()
    copy = sf.pp.rank_encode(adata, genes=genes, key_added="ranks", copy=True)
    assert "ranks" in copy.obsm
    assert "ranks" in copy.uns
    assert set(adata.obsm) == set(before.obsm)
    assert set(adata.uns) == set(before.uns)
    assert (adata.X != before.X).nnz == 0
    assert adata.obs.equals(before.obs)


def test_the_most_telling_genes_are_kept(adata: AnnData, genes: GeneVocabulary) -> None:
    assert ranked(adata, genes, max_length=5) == [cell[:5] for cell in by_definition(adata, genes)]


def test_the_array_type_does_not_matter(adata: AnnData, genes: GeneVocabulary, as_array: Callable) -> None:
    cells = AnnData(obs=adata.obs, var=adata.var, layers={"counts": as_array(adata.X.toarray())})
    assert ranked(cells, genes, layer="counts") == by_definition(adata, genes)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64"])
def test_the_type_of_counts_does_not_matter(adata: AnnData, genes: GeneVocabulary, dtype: str) -> None:
    cells = adata.copy()
    cells.X = cells.X.astype(dtype)
    assert ranked(cells, genes) == by_definition(adata, genes)


def test_the_order_of_genes_and_cells_does_not_matter(adata: AnnData, genes: GeneVocabulary) -> None:
    rng = np.random.default_rng(0)
    cells, columns = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    expected = by_definition(adata, genes)
    assert ranked(adata[cells, columns], genes) == [expected[cell] for cell in cells]


def test_genes_outside_the_vocabulary_do_not_matter(adata: AnnData, genes: GeneVocabulary) -> None:
    inside = np.flatnonzero(genes.index_of(adata.var_names) >= 0)
    assert ranked(adata[:, inside], genes) == by_definition(adata, genes)


def test_sequencing_depth_does_not_matter(adata: AnnData, genes: GeneVocabulary) -> None:
    deeper = adata.copy()
    deeper.X = sparse.csr_matrix(adata.X.toarray() * np.arange(1, 61)[:, None])
    assert ranked(deeper, genes) == by_definition(adata, genes)


def test_log1p_normalised_values_have_the_same_order(adata: AnnData, genes: GeneVocabulary) -> None:
    logged = adata.copy()
    logged.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / adata.X.toarray().sum(axis=1, keepdims=True) * 1e4))
    assert ranked(logged, genes) == by_definition(adata, genes)


@pytest.mark.parametrize("target_sum", [None, 1.0, 1e4])
def test_counts_that_tie_still_do_after_scanpy_has_normalised_them(adata: AnnData, target_sum: float | None) -> None:
    adata = adata.copy()
    adata.X = adata.X.astype(np.float32)
    genes = GeneVocabulary(adata.var_names, medians=np.random.default_rng(0).integers(1, 4, adata.n_vars).astype(float))
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=target_sum)
    sc.pp.log1p(logged)
    assert ranked(logged, genes) == ranked(adata, genes) == by_definition(adata, genes)


@pytest.mark.parametrize("backing", ["h5ad", "blocks of 3 cells"])
def test_blocks_of_cells_do_not_matter(
    adata: AnnData, genes: GeneVocabulary, backing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = adata
    if backing == "h5ad":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        cells = read_h5ad(tmp_path / "cells.h5ad", backed="r")
    monkeypatch.setattr(_row_blocks, "BLOCK_VALUES", 200)
    assert ranked(cells, genes) == by_definition(adata, genes)


def test_counts_of_columns_with_one_gene_are_summed(adata: AnnData, genes: GeneVocabulary) -> None:
    """Halves of a gene's counts under two versions of its id rank as the whole."""
    halves = adata.X.toarray()
    other = halves // 2
    doubled = AnnData(sparse.csr_matrix(np.hstack([halves - other, other])))
    doubled.var_names = [*adata.var_names, *(f"{name}.2" for name in adata.var_names)]
    assert ranked(doubled, genes) == by_definition(adata, genes)


def test_medians_of_the_data_themselves(adata: AnnData) -> None:
    own = sf.pp.gene_medians(adata)
    assert ranked(adata, own) == by_definition(adata, own)


def test_the_vocabulary_of_saved_weights(adata: AnnData, genes: GeneVocabulary, tmp_path: Path) -> None:
    genes.write(tmp_path / "genes.tsv")
    assert ranked(adata, tmp_path) == ranked(adata, str(tmp_path)) == by_definition(adata, genes)


def test_default_weights_have_medians_to_rank_by(
    adata: AnnData, genes: GeneVocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genes.write(tmp_path / "genes.tsv")
    folders = {"langcell": tmp_path}
    monkeypatch.setattr("scfoundry.model._pretrained.locate", folders.__getitem__)
    encoded = sf.pp.rank_encode(adata, copy=True)
    assert encoded.uns["X_rank"]["provenance"]["vocabulary"] == tokens.checksum(genes)


def test_bad_input_is_named_with_its_fix(adata: AnnData, genes: GeneVocabulary, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_length must be at least 1 gene; got 0.*max_length=2048"):
        sf.pp.rank_encode(adata, genes=genes, max_length=0)
    with pytest.raises(ValueError, match=r"\(1 genes\) has no medians.*genes=sf\.pp\.gene_medians\(adata\)"):
        sf.pp.rank_encode(adata, genes=GeneVocabulary(["CD4"]))
    with pytest.raises(FileNotFoundError, match=r"holds no genes\.tsv.*sf\.pp\.gene_medians"):
        sf.pp.rank_encode(adata, genes=tmp_path)
    with pytest.raises(FileNotFoundError, match="No weights 'langcel'"):
        sf.pp.rank_encode(adata, genes="langcel")
    with pytest.raises(ValueError, match=r"adata\.layers has no 'count'"):
        sf.pp.rank_encode(adata, genes=genes, layer="count")
    scaled = adata.copy()
    scaled.X = scaled.X.toarray() - 1
    with pytest.raises(ValueError, match=r"sf\.pp\.rank_encode needs raw counts or log1p.*looks scaled"):
        sf.pp.rank_encode(scaled, genes=genes)
    scaled.X = np.abs(scaled.X) * 30.5
    with pytest.raises(ValueError, match=r"holds normalised values such as TPM"):
        sf.pp.rank_encode(scaled, genes=genes)
    strangers = adata.copy()
    strangers.var_names = [f"gene {i}" for i in range(120)]
    with pytest.raises(ValueError, match=r"Only 0 of 120 genes of the data are among"):
        sf.pp.rank_encode(strangers, genes=genes)
