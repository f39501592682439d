from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix import row_blocks as _row_blocks
from scfoundry.data.tokens import medians as _medians

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def by_definition(counts: np.ndarray, target_sum: float = 1e4) -> np.ndarray:
    """Median of every gene in one dense matrix, NaN where it is not expressed."""
    counts = counts.astype(np.float64)
    with np.errstate(invalid="ignore"):
        scaled = counts / counts.sum(axis=1, keepdims=True) * target_sum
    return np.array([np.median(gene[gene > 0]) if (gene > 0).any() else np.nan for gene in scaled.T])


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    """60 cells x 40 genes; the last gene is nowhere expressed, the one before in one cell, and one cell is empty."""
    adata = make_adata()
    counts = adata.X.toarray()
    counts[5] = 0
    counts[:, -2:] = 0
    counts[3, -2] = 2
    adata.X = sparse.csr_matrix(counts)
    return adata


@pytest.fixture(params=[None, 1, 50], ids=["sorted at once", "narrowed to a value", "narrowed, then sorted"])
def max_candidates(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(_medians, "_MAX_CANDIDATES", request.param)


@pytest.mark.usefixtures("max_candidates")
@pytest.mark.parametrize("target_sum", [1e4, 1.0])
def test_medians_are_those_of_numpy_to_the_last_bit(adata: AnnData, target_sum: float) -> None:
    expected = by_definition(adata.X.toarray(), target_sum)
    medians = sf.pp.gene_medians(adata, target_sum=target_sum)
    assert medians.ids.tolist() == adata.var_names[:-1].tolist()
    np.testing.assert_array_equal(medians.medians, expected[:-1])


@pytest.mark.usefixtures("max_candidates")
def test_middle_values_far_apart_and_all_alike() -> None:
    # Two values decades apart, one value many times over, and an even number whose middle pair is such a tie.
    counts = np.array([[1, 8, 1, 990], [999, 8, 1, 1], [0, 8, 9, 1], [0, 8, 1, 99]])
    adata = AnnData(sparse.csr_matrix(counts), var={"gene": list("ABCD")})
    adata.var_names = adata.var["gene"].tolist()
    np.testing.assert_array_equal(sf.pp.gene_medians(adata).medians, by_definition(counts))


@pytest.mark.usefixtures("max_candidates")
def test_the_array_type_does_not_matter(adata: AnnData, as_array: Callable) -> None:
    expected = sf.pp.gene_medians(adata)
    adata.layers["counts"] = as_array(adata.X.toarray())
    adata.X = None
    assert sf.pp.gene_medians(adata, layer="counts") == expected


@pytest.mark.usefixtures("max_candidates")
def test_blocks_do_not_matter(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sf.pp.gene_medians(adata)
    monkeypatch.setattr(_row_blocks, "BLOCK_VALUES", 100)
    assert sf.pp.gene_medians(adata) == expected


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float64"])
def test_the_type_of_counts_does_not_matter(adata: AnnData, dtype: str) -> None:
    expected = sf.pp.gene_medians(adata)
    adata.X = adata.X.astype(dtype)
    assert sf.pp.gene_medians(adata) == expected


def test_backed_files_and_the_order_of_cells(adata: AnnData, tmp_path: Path) -> None:
    expected = sf.pp.gene_medians(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert sf.pp.gene_medians(read_h5ad(tmp_path / "cells.h5ad", backed="r")) == expected
    assert sf.pp.gene_medians(adata[::-1]) == expected


def test_totals_are_over_all_genes_whichever_are_asked_for(adata: AnnData) -> None:
    everything = sf.pp.gene_medians(adata)
    wanted = GeneVocabulary([*adata.var_names[[9, 2, 39, 38]], "ENSG00000999999"])
    medians = sf.pp.gene_medians(adata, genes=wanted)
    # One is expressed nowhere, and one is not measured.
    assert medians.ids.tolist() == adata.var_names[[9, 2, 38]].tolist()
    np.testing.assert_array_equal(medians.medians, everything.medians[[9, 2, 38]])


def test_nothing_is_written(adata: AnnData) -> None:
    before = adata.copy()
    sf.pp.gene_medians(adata)
    assert (adata.X != before.X).nnz == 0
    assert not adata.uns
    assert adata.var.equals(before.var)


def test_bad_input_is_named_with_its_fix(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"target_sum must be positive; got 0.*target_sum=1e4"):
        sf.pp.gene_medians(adata, target_sum=0)
    logged = adata.copy()
    logged.layers["counts"] = logged.X.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(ValueError, match=r'gene_medians needs raw counts.*layer="counts"'):
        sf.pp.gene_medians(logged)
    with pytest.raises(ValueError, match=r"None of the 40 genes is expressed in any of the 1 cells"):
        sf.pp.gene_medians(adata[5])
    adata.var_names = ["CD4", *adata.var_names[1:-1], "CD4"]
    with pytest.raises(ValueError, match=r"1 gene names occur more than once.*'CD4'.*var_names_make_unique"):
        sf.pp.gene_medians(adata)
