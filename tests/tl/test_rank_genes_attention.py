"""Genes by attention: what scanpy reads of it, groups, and what is refused; the rest is in `test_every_verb`."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import read_h5ad

import scfoundry as sf
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.celllm._tokens import CellTokens

KEY = "rank_genes_attention"


@pytest.fixture(scope="module")
def model(make_adata):
    sizes = {"n_hidden": 16, "n_layers": 2, "n_heads": 2, "n_head": 8, "n_intermediate": 16, "n_features": 16}
    return sf.model.CellLM(genes=make_adata().var_names, **sizes)


@pytest.fixture(scope="module")
def adata(make_adata):
    cells = make_adata(60)
    cells.obs["site"] = pd.Categorical(np.array(["gut", "lung", "skin"])[np.arange(60) % 3])
    return cells


def ranked(adata, model, groupby="site", **how):
    return sf.tl.rank_genes_attention(adata, groupby, **{"model": model, "device": "cpu", "copy": True} | how)


def relative_attention(adata, model):
    """Mean over heads and layers of what ``<cls>`` of every cell gives its genes, 1 is even, NaN without, (n, G)."""
    found = np.full(adata.shape, np.nan)
    for row in range(adata.n_obs):
        cells = Cells.of(adata[[row]].copy(), model.genes, caller="test")
        batch = CellTokens(cells.reader, model.config).batch(np.arange(1), model.module.device)
        weights = model.module.cls_attention(batch).detach().numpy().mean((0, 1, 2))[1:]
        found[row, batch.genes[0, 1:].numpy()] = weights / weights.mean()
    return found


def test_scores_are_the_mean_attention_of_a_group(adata, model):
    expected = pd.DataFrame(relative_attention(adata, model), columns=adata.var_names)
    means = expected.groupby(adata.obs["site"].to_numpy()).mean()
    n_cells = expected.groupby(adata.obs["site"].to_numpy()).count()
    found = ranked(adata, model, min_cells=5)
    for group in means.index:
        table = sc.get.rank_genes_groups_df(found, group, key=KEY).set_index("names")
        enough = means.loc[group].where(n_cells.loc[group] >= 5)
        np.testing.assert_allclose(table["scores"], enough[table.index], rtol=1e-5)
        rest = expected[(adata.obs["site"] != group).to_numpy()].mean()
        np.testing.assert_allclose(table["logfoldchanges"], np.log2(enough / rest)[table.index], atol=1e-5)
        np.testing.assert_allclose(table["pct_nz_group"], (n_cells.loc[group] / 20)[table.index])
        assert table["scores"].dropna().is_monotonic_decreasing


def test_scanpy_reads_it_also_from_a_file(adata, model, tmp_path):
    found = ranked(adata, model, min_cells=5)
    found.write_h5ad(tmp_path / "cells.h5ad")
    table, read = (sc.get.rank_genes_groups_df(a, None, key=KEY) for a in (found, read_h5ad(tmp_path / "cells.h5ad")))
    pd.testing.assert_frame_equal(table, read, check_categorical=False)
    assert table["group"].unique().tolist() == ["gut", "lung", "skin"]
    columns = ["scores", "logfoldchanges", "pvals", "pvals_adj", "pct_nz_group", "pct_nz_reference"]
    assert set(columns) < set(table.columns)
    assert len(sc.get.rank_genes_groups_df(found, "gut", key=KEY, pval_cutoff=0.05)) < len(table) / 3


PLOTS = {
    "rank_genes_groups": {},
    "rank_genes_groups_violin": {"groups": ["skin"]},
    "rank_genes_groups_dotplot": {"dendrogram": False},
    "rank_genes_groups_matrixplot": {"dendrogram": False},
}


@pytest.mark.parametrize("plot", PLOTS)
def test_plots_of_scanpy_take_it(adata, model, plot):
    mpl.use("Agg")
    found = ranked(adata, model, min_cells=5)
    sc.pp.normalize_total(found)
    sc.pp.log1p(found)
    getattr(sc.pl, plot)(found, key=KEY, n_genes=4, show=False, **PLOTS[plot])
    shown = {text.get_text() for axis in mpl.pyplot.gcf().axes for text in axis.texts + axis.get_xticklabels()}
    mpl.pyplot.close("all")
    assert set(found.uns[KEY]["names"]["skin"][:4]) <= shown


def test_a_group_is_what_it_is_whichever_are_asked_for(adata, model):
    every = sc.get.rank_genes_groups_df(ranked(adata, model), "gut", key=KEY)
    for groups in (["gut"], "gut", ["skin", "gut"]):
        found = ranked(adata, model, groups=groups)
        assert list(found.uns[KEY]["names"].dtype.names) == [g for g in ("gut", "skin") if g in groups]
        pd.testing.assert_frame_equal(sc.get.rank_genes_groups_df(found, "gut", key=KEY), every)


def test_difference_ranks_by_the_test(adata, model):
    found = sc.get.rank_genes_groups_df(ranked(adata, model, rank_by="difference", min_cells=5), "lung", key=KEY)
    assert found["scores"].dropna().is_monotonic_decreasing
    tested = found.dropna()
    assert ((tested["scores"] > 0) == (tested["logfoldchanges"] > 0)).all()


def test_genes_that_few_cells_have_come_last_without_numbers(adata, model):
    found = sc.get.rank_genes_groups_df(ranked(adata, model, min_cells=15), "gut", key=KEY)
    few = found["pct_nz_group"] < 15 / 20
    assert 0 < few.sum() < len(found)
    assert found["scores"].isna().equals(few)
    assert few.is_monotonic_increasing
    assert found.loc[few, ["logfoldchanges", "pvals", "pvals_adj"]].isna().all(axis=None)


def test_cells_without_a_group_do_not_count(adata, model, logged):
    fewer = adata.copy()
    fewer.obs.loc[fewer.obs_names[:15], "site"] = None
    found = ranked(fewer, model)
    assert any("15 cells have no value in obs['site']" in message for message in logged)
    expected = ranked(adata[15:].copy(), model)
    for name in ("names", "scores", "pvals"):
        pd.testing.assert_frame_equal(pd.DataFrame(found.uns[KEY][name]), pd.DataFrame(expected.uns[KEY][name]))


def lonely(adata):
    adata.obs["site"] = ["gut"] + ["skin"] * (adata.n_obs - 1)


def single(adata):
    adata.obs["site"] = "gut"


def empty(adata):
    adata.obs["site"] = None


REFUSED = {
    "no column": (
        None,
        {"groupby": "organ"},
        r"no column 'organ'; its columns: .*'site'\. Pass one of them as groupby\.",
    ),
    "no key": (None, {"groupby": None}, "groupby must be text; got None"),
    "empty": (empty, {}, r"No cell has a group in adata.obs\['site'\]\. Fill the column, or pass another as groupby\."),
    "one group": (single, {}, r"obs\['site'\] has a single group, 'gut', .*two groups or more as groupby"),
    "one cell": (
        lonely,
        {},
        r"less than 10 cells, 'gut' \(1 at the least\).*To leave them out: groups=\['skin'\]\. .*min_cells=1\.",
    ),
    "unknown": (None, {"groups": ["gut", "brain"]}, r"has no group 'brain'\. Pass some of .*: 'gut', 'lung', 'skin'"),
    "none": (None, {"groups": []}, r"groups, and none was asked for\. Pass some of these as groups, or \"all\""),
    "rank_by": (None, {"rank_by": "t-test"}, r"rank_by must be one of 'attention', 'difference'; got 't-test'"),
    "n_genes": (None, {"n_genes": 0}, r"n_genes must be at least 1; got 0.*n_genes=None"),
    "min_cells": (None, {"min_cells": 0}, r"min_cells must be at least 1; got 0\. Default: min_cells=10"),
    "all small": (None, {"min_cells": 21}, r"groups of less than 21 cells.*so that no gene has .*: min_cells=20\."),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_is_refused_with_the_way_out(adata, model, wrong):
    damage, how, message = REFUSED[wrong]
    cells = adata.copy()
    if damage is not None:
        damage(cells)
    with pytest.raises(ValueError, match=message):
        ranked(cells, model, **how)


def test_a_group_of_one_cell_can_be_left_out_or_ranked_without_tests(adata, model):
    cells = adata.copy()
    lonely(cells)
    assert ranked(cells, model, groups=["skin"]).uns[KEY]["names"].dtype.names == ("skin",)
    found = sc.get.rank_genes_groups_df(ranked(cells, model, min_cells=1), "gut", key=KEY)
    assert found["scores"].notna().sum() == (cells.X[0] > 0).sum()
    assert found["pvals"].isna().all()
