"""Gene programmes: what is written, what plays no part, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad
from cases import contents, same
from mudata import MuData

import scfoundry as sf

SETS = {"some": ["ENSG00000000938", "ENSG00000005022", "ENSG00000008517", "ENSG00000011600"]}
HOW = {"n_genes": 45, "min_genes": 2, "max_q": 1.0, "gene_sets": SETS}


@pytest.fixture(scope="module")
def model(make_adata):
    return sf.model.Celler(genes=make_adata(n_vars=60).var_names[:50], n_hidden=16, n_layers=1, n_heads=2)


def grouped(adata, model, **arguments):
    return sf.tl.gene_programmes(adata, **{"model": model, "copy": True} | HOW | arguments)


def test_genes_of_the_model_get_a_programme_and_others_none(model, make_adata):
    adata = make_adata(40, 60)
    result = grouped(adata, model)
    programmes = result.var["gene_programmes"]
    assert programmes[50:].isna().all()
    assert 2 <= programmes.notna().sum() <= 45
    sizes = programmes.value_counts()[programmes.cat.categories]
    assert sizes.is_monotonic_decreasing
    assert sizes.min() >= 2
    assert programmes.cat.categories[0] == "1"
    same(contents(adata), contents(make_adata(40, 60)))


def test_sets_are_tested_against_the_genes_that_were_grouped(model, make_adata):
    result = grouped(make_adata(40, 60), model)
    table = result.uns["gene_programmes"]["enrichment"]
    programmes = result.var["gene_programmes"]
    assert len(table)
    for _, row in table.iterrows():
        shared = row["genes"].split(", ")
        assert set(shared) <= set(SETS["some"])
        assert len(shared) == row["n_shared"]
        assert (programmes[shared] == row["programme"]).all()
        assert row["n_programme"] == (programmes == row["programme"]).sum()
    assert "enrichment" not in grouped(make_adata(40, 60), model, gene_sets=None).uns["gene_programmes"]


def test_the_order_of_cells_and_genes_plays_no_part(model, make_adata):
    adata, rng = make_adata(40, 60), np.random.default_rng(1)
    moved = adata[rng.permutation(40), rng.permutation(60)].copy()
    results = [grouped(data, model) for data in (adata, moved)]
    first, second = (result.var["gene_programmes"].astype(object) for result in results)
    pd.testing.assert_series_equal(second[first.index], first)
    tables = [result.uns["gene_programmes"]["enrichment"] for result in results]
    pd.testing.assert_frame_equal(*tables)


def test_files_keep_the_result_and_its_record(model, make_adata, tmp_path):
    adata = make_adata(40, 60)
    sf.tl.gene_programmes(adata, model=model, key_added="mine", **HOW)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    same(contents(read_h5ad(tmp_path / "cells.h5ad")), contents(adata))
    assert adata.uns["mine"]["params"]["n_genes"] == 45
    assert adata.uns["mine"]["provenance"]["genes"]["n_kept"] == 50
    mdata = MuData({"rna": make_adata(40, 60)})
    sf.tl.gene_programmes(mdata, model=model, key_added="mine", **HOW)
    pd.testing.assert_series_equal(mdata.mod["rna"].var["mine"], adata.var["mine"])


REFUSED = {
    "resolution": ({"resolution": 0}, r"resolution must be above 0.*resolution=5.0"),
    "max_q": ({"max_q": 2}, r"max_q above 0 and at most 1"),
    "neighbours": ({"n_neighbors": 1}, r"n_neighbors must be a whole number from 2; got 1"),
    "sets": ({"gene_sets": {"fly": ["dpp"]}}, r"None of the 1 gene sets has a gene among the 45"),
    "no sets": ({"gene_sets": {}}, r"There are no gene sets"),
    "genes": ({"n_genes": 2}, r"only 2 genes that the model knows vary"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_written(model, make_adata, wrong):
    arguments, message = REFUSED[wrong]
    adata = make_adata(40, 60)
    with pytest.raises(ValueError, match=message):
        grouped(adata, model, copy=False, **arguments)
    same(contents(adata), contents(make_adata(40, 60)))


def test_a_model_without_gene_vectors_is_refused(small_model, make_adata):
    with pytest.raises(ValueError, match=r"has no vectors of genes. .*model=\"cellplm\""):
        grouped(make_adata(40, 60), small_model)
