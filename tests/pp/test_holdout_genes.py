from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def adata() -> AnnData:
    """20 cells x 100 genes: gene j is zero in j // 5 cells, so zero rates are 0, 0.05, ..., 0.95."""
    rng = np.random.default_rng(0)
    expressed = np.argsort(rng.random((20, 100)), axis=0) >= np.arange(100) // 5
    counts = np.where(expressed, rng.integers(1, 9, expressed.shape), 0).astype(np.float32)
    return AnnData(counts, var=pd.DataFrame(index=[f"gene{j}" for j in range(100)]))


def test_genes_are_drawn_within_right_closed_strata(adata: AnnData) -> None:
    genes = sf.pp.holdout_genes(adata, n_per_stratum=5)
    assert genes["stratum"].value_counts(sort=False).tolist() == [5, 5, 5, 0]
    assert genes["stratum"].cat.categories.tolist() == ["(0, 0.75]", "(0.75, 0.9]", "(0.9, 0.95]", "(0.95, 1]"]
    assert genes.index.is_unique
    by_stratum = genes.groupby("stratum", observed=True)["zero_rate"]
    assert (by_stratum.min() > [0, 0.75, 0.9]).all()
    assert (by_stratum.max() <= [0.75, 0.9, 0.95]).all()
    np.testing.assert_allclose(genes["zero_rate"], (adata[:, genes.index].X == 0).mean(axis=0))


def test_genes_without_zeros_are_in_no_stratum(adata: AnnData) -> None:
    genes = sf.pp.holdout_genes(adata, n_per_stratum=100)
    assert set(genes.index) == set(adata.var_names[5:])


def test_small_strata_give_all_they_have_and_say_so(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("scfoundry._settings.logger.warning", lambda message, *values: said.append(message % values))
    genes = sf.pp.holdout_genes(adata, n_per_stratum=6, strata=(0.9, 0.95, 1))
    assert len(genes) == 5
    assert said[0] == "sf.pp.holdout_genes: only 5 genes have a zero rate in (0.9, 0.95], not 6; all are taken."


def test_the_array_type_does_not_matter(adata: AnnData, as_array: Callable) -> None:
    expected = sf.pp.holdout_genes(adata)
    adata.layers["counts"] = as_array(adata.X)
    adata.X = None
    pd.testing.assert_frame_equal(sf.pp.holdout_genes(adata, layer="counts"), expected)


def test_backed_and_views_give_the_same(adata: AnnData, tmp_path: Path) -> None:
    expected = sf.pp.holdout_genes(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(sf.pp.holdout_genes(read_h5ad(tmp_path / "cells.h5ad", backed="r")), expected)
    pd.testing.assert_frame_equal(sf.pp.holdout_genes(adata[::-1]), expected)


def test_stored_zeros_are_zeros(adata: AnnData) -> None:
    expected = sf.pp.holdout_genes(adata)
    stored = sparse.csr_matrix(adata.X + 1)
    stored.data -= 1
    adata.X = stored
    pd.testing.assert_frame_equal(sf.pp.holdout_genes(adata), expected)
    assert stored.nnz == stored.shape[0] * stored.shape[1]


def test_logarithms_have_the_same_zeros(adata: AnnData) -> None:
    expected = sf.pp.holdout_genes(adata)
    adata.X = np.log1p(adata.X)
    pd.testing.assert_frame_equal(sf.pp.holdout_genes(adata), expected)


def test_seeds_and_generators(adata: AnnData) -> None:
    def draw(rng: object) -> list[str]:
        return sf.pp.holdout_genes(adata, n_per_stratum=5, rng=rng).index.tolist()

    assert draw(1) == draw(1) != draw(2)
    assert draw(np.random.default_rng(1)) == draw(np.random.default_rng(1))
    generator = np.random.default_rng(1)
    assert draw(generator) != draw(generator)


def test_bad_input_is_named_with_its_fix(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"strata must be ascending edges between 0 and 1.*got \(0.9, 0.75\)"):
        sf.pp.holdout_genes(adata, strata=(0.9, 0.75))
    with pytest.raises(ValueError, match="strata must be ascending"):
        sf.pp.holdout_genes(adata, strata=(0, 75, 100))
    with pytest.raises(ValueError, match="n_per_stratum must be at least 1; got 0"):
        sf.pp.holdout_genes(adata, n_per_stratum=0)
    with pytest.raises(ValueError, match="adata has 20 cells and 0 genes"):
        sf.pp.holdout_genes(adata[:, []])
    with pytest.raises(ValueError, match=r"adata.layers has no 'counts'"):
        sf.pp.holdout_genes(adata, layer="counts")
    adata.layers["scaled"] = adata.X - adata.X.mean(axis=0) + 0.01
    with pytest.raises(ValueError, match=r'rates run from 0 to 0\. .*layer="counts"'):
        sf.pp.holdout_genes(adata, layer="scaled")
    adata.var_names = ["CD4", *adata.var_names[1:-1], "CD4"]
    with pytest.raises(
        ValueError, match=r"1 gene names occur more than once, for example 'CD4'.*var_names_make_unique"
    ):
        sf.pp.holdout_genes(adata)
