"""Pathway tokens: what is written, what plays no part, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import read_h5ad
from cases import SmallTokeniser, contents, same
from mudata import MuData
from scipy import sparse

import scfoundry as sf

KEY = "pathway_tokens"


@pytest.fixture(scope="module")
def model(make_adata):
    return SmallTokeniser(make_adata(n_vars=60).var_names[:50])


@pytest.fixture(scope="module")
def sets(make_adata):
    names = make_adata(n_vars=60).var_names
    return {"first": [*names[:9], *names[50:]], "second": names[5:20].tolist(), "fly": ["dpp"]}


def tokenised(adata, model, **arguments):
    how = {"model": model, "copy": True, "device": "cpu", "n_top_genes": 8, "min_cells": 3, "max_q": 1.0}
    return sf.tl.pathway_tokens(adata, **how | arguments)


def test_cells_get_frequencies_and_codes_their_genes(model, make_adata):
    adata = make_adata(40, 60)
    result = tokenised(adata, model)
    frequencies, record = result.obsm["X_pathway_tokens"], result.uns[KEY]
    assert frequencies.shape == (40, 6)
    assert (frequencies.dtypes == np.float32).all()
    assert frequencies.columns.tolist() == [f"code_{i}" for i in range(6)]
    assert frequencies.index.equals(adata.obs_names)
    np.testing.assert_allclose(frequencies.sum(axis=1), 1)
    usage = record["usage"]
    np.testing.assert_allclose(usage["mean_frequency"], frequencies.mean(), rtol=1e-6)
    assert (usage["n_cells"] == (frequencies > 0).sum()).all()
    assert record["perplexity"] == pytest.approx(np.exp(-sum(p * np.log(p) for p in frequencies.mean() if p)))
    table = record["association"]
    assert list(table) == ["code", "rank", "gene", "share", "fold", "correlation", "q_value", "n_cells"]
    # The sixth code is never used.
    assert set(table["code"]) == set(frequencies.columns[:5])
    assert table["rank"].max() == 8
    assert set(table["gene"]) <= set(adata.var_names[:50])
    on = pd.Series((adata.X.toarray() > 0).sum(0), adata.var_names)
    assert table["n_cells"].tolist() == on[table["gene"]].tolist()
    assert table["n_cells"].min() >= 3
    assert "enrichment" not in record
    same(contents(adata), contents(make_adata(40, 60)))


def test_sets_are_tested_against_the_genes_that_were_ranked(model, make_adata, sets):
    adata = make_adata(40, 60)
    record = tokenised(adata, model, gene_sets=sets, min_cells=25).uns[KEY]
    table, association = record["enrichment"], record["association"]
    on = np.array((adata.X.toarray() > 0).sum(0) >= 25)
    background = set(adata.var_names[:50][on[:50]])
    assert 5 < len(background) < 50
    assert set(association["gene"]) <= background
    assert len(table)
    for row in table.itertuples():
        of_code = set(association["gene"][association["code"] == row.code])
        assert row.genes.split(", ") == sorted(of_code & set(sets[row.gene_set]))
        assert (row.n_code, row.n_gene_set) == (len(of_code), len(background & set(sets[row.gene_set])))
    none = tokenised(adata, model, gene_sets=sets, max_q=1e-300).uns[KEY]
    assert (len(none["association"]), len(none["enrichment"])) == (0, 0)


def test_a_gene_has_to_be_in_min_cells_cells(model, make_adata):
    adata = make_adata(40, 60)
    n_cells = (adata.X.toarray() > 0).sum(0)[:50]
    least = int(np.median(n_cells))
    every = tokenised(adata, model, min_cells=1, n_top_genes=50).uns[KEY]["association"]
    some = tokenised(adata, model, min_cells=least, n_top_genes=50).uns[KEY]["association"]
    kept = every[every["n_cells"] >= least]
    assert 0 < len(kept) < len(every)
    columns = ["code", "gene", "share"]
    pd.testing.assert_frame_equal(some[columns], kept[columns].set_index(some.index))


def test_a_cell_without_genes_has_no_tokens_and_plays_no_part(model, make_adata):
    adata = make_adata(40, 60)
    dense = adata.X.toarray()
    dense[4, :50] = 0
    adata.X = sparse.csr_matrix(dense)
    result, without = tokenised(adata, model), tokenised(adata[np.arange(40) != 4].copy(), model)
    assert result.obsm["X_pathway_tokens"].iloc[4].isna().all()
    assert result.obsm["X_pathway_tokens"].isna().sum().sum() == 6
    pd.testing.assert_frame_equal(result.uns[KEY]["association"], without.uns[KEY]["association"])
    pd.testing.assert_frame_equal(result.uns[KEY]["usage"], without.uns[KEY]["usage"])


def test_the_order_of_cells_and_genes_plays_no_part(model, make_adata, sets):
    adata, rng = make_adata(40, 60), np.random.default_rng(1)
    moved = adata[rng.permutation(40), rng.permutation(60)].copy()
    first, second = (tokenised(data, model, gene_sets=sets) for data in (adata, moved))
    pd.testing.assert_frame_equal(second.obsm["X_pathway_tokens"].loc[adata.obs_names], first.obsm["X_pathway_tokens"])
    for name in ("usage", "association", "enrichment"):
        pd.testing.assert_frame_equal(second.uns[KEY][name], first.uns[KEY][name])


@pytest.mark.parametrize("max_q", [1.0, 1e-300])
def test_files_keep_the_result_and_its_record(model, make_adata, sets, tmp_path, max_q):
    adata = make_adata(40, 60)
    how = {"model": model, "gene_sets": sets, "min_cells": 3, "max_q": max_q, "device": "cpu"}
    sf.tl.pathway_tokens(adata, key_added="mine", **how)
    assert set(contents(adata)) - set(contents(make_adata(40, 60))) >= {"obsm/mine", "uns/mine/association"}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    same(contents(read_h5ad(tmp_path / "cells.h5ad")), contents(adata))
    assert adata.uns["mine"]["params"] == {
        "n_top_genes": 50,
        "rank_by": "correlation",
        "max_q": max_q,
        "min_cells": 3,
        "precision": "auto",
    }
    assert adata.uns["mine"]["provenance"]["genes"]["n_kept"] == 50
    mdata = MuData({"rna": make_adata(40, 60)})
    sf.tl.pathway_tokens(mdata, **how)
    pd.testing.assert_frame_equal(mdata.mod["rna"].obsm["X_pathway_tokens"], adata.obsm["mine"])


def test_neighbours_of_cells_are_found_by_their_tokens(model, make_adata):
    result = tokenised(make_adata(40, 60), model)
    # Nothing that has to be compiled first.
    how = {"transformer": "sklearn", "method": "gauss"}
    sc.pp.neighbors(result, n_neighbors=5, use_rep="X_pathway_tokens", **how)
    assert result.obsp["distances"].nnz


REFUSED = {
    "genes": ({"n_top_genes": 0}, r"n_top_genes must be at least 1; got 0. Default: n_top_genes=50"),
    "cells": ({"min_cells": 0}, r"min_cells must be at least 1; got 0. Default: min_cells=10"),
    "order": ({"rank_by": "fold"}, r"rank_by must be one of 'share', 'correlation'; got 'fold'"),
    "max_q": ({"max_q": 0}, r"max_q must be above 0 and at most 1; got 0. The default: max_q=0.05"),
    "sets": ({"gene_sets": {"fly": ["dpp"]}}, r"None of the 1 gene sets has a gene that was measured .* as 'ENSG"),
    "no sets": ({"gene_sets": {}}, r"There are no gene sets"),
    "few cells": ({"min_cells": 41}, r"no gene .* in min_cells=41 of the 40 cells. The most frequent .* min_cells="),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_written(model, make_adata, wrong):
    arguments, message = REFUSED[wrong]
    adata = make_adata(40, 60)
    with pytest.raises(ValueError, match=message):
        tokenised(adata, model, copy=False, **arguments)
    same(contents(adata), contents(make_adata(40, 60)))


def test_cells_that_are_all_empty_are_refused(model, make_adata):
    adata = make_adata(10, 60)
    dense = adata.X.toarray()
    dense[:, :50] = 0
    adata.X = sparse.csr_matrix(dense)
    with pytest.raises(ValueError, match=r"min_cells=3 of the 10 cells. None has any"):
        tokenised(adata, model)


def test_a_model_without_a_codebook_is_refused(small_model, make_adata):
    with pytest.raises(ValueError, match=r"has no codebook of pathway tokens. .*model=\"scpalm\""):
        tokenised(make_adata(40, 60), small_model)
