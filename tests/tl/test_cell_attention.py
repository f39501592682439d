"""Attention between cells: what is written, and what is refused before anything is computed."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

import scfoundry as sf

mpl.use("Agg")


@pytest.fixture(scope="module")
def model(make_adata):
    return sf.model.CellPLM(genes=make_adata().var_names, n_hidden=16, n_layers=1, n_latent=4)


def attended(adata, model, **arguments):
    return sf.tl.cell_attention(adata, model=model, **{"device": "cpu", "copy": True} | arguments)


def test_every_group_stands_beside_every_other(model, make_adata):
    uns = attended(make_adata(30), model, groupby="cell_type", batch_key="batch", k=4).uns["cell_attention"]
    assert uns["params"]["scale"] == "shares"
    groups = uns["groups"]
    assert list(zip(groups["attending"], groups["attended"], strict=True))[1] == ("B cell", "monocyte")
    assert list(groups.columns[2:]) == ["n_pairs", "weight", "enrichment"]


@pytest.mark.parametrize("n_batches", [1, 3])
def test_shares_of_groups_add_up(model, make_adata, n_batches):
    adata = attended(make_adata(30, n_batches=n_batches), model, groupby="cell_type", batch_key="batch")
    groups = adata.uns["cell_attention"]["groups"]
    given = (groups["weight"] * groups["n_pairs"]).groupby(groups["attending"], observed=True).sum()
    np.testing.assert_allclose(given, adata.obs["cell_type"].value_counts()[given.index], rtol=1e-5)


def test_cells_without_a_group_count_as_context_only(model, make_adata, logged):
    adata = make_adata(30)
    adata.obs.loc[adata.obs_names[:6], "cell_type"] = None
    result = attended(adata, model, groupby="cell_type")
    assert any("6 cells have no value in obs['cell_type']" in message for message in logged)
    assert result.uns["cell_attention"]["groups"]["n_pairs"].sum() == 24**2
    assert result.obsp["cell_attention"][:6].nnz


def test_groups_that_never_meet_have_no_enrichment(model, make_adata):
    adata = attended(make_adata(30), model, groupby="batch", batch_key="batch")
    groups = adata.uns["cell_attention"]["groups"]
    apart = groups["attending"].astype(str) != groups["attended"].astype(str)
    assert groups.loc[apart, "enrichment"].isna().all()
    np.testing.assert_allclose(groups.loc[~apart, "enrichment"], 1, rtol=1e-5)


def test_weights_are_float32_and_nobody_can_ask_for_less(model, make_adata):
    with pytest.raises(TypeError, match="precision"):
        sf.tl.cell_attention(make_adata(20), model=model, precision="bfloat16")


def no_groups(adata):
    adata.obs["cell_type"] = np.nan


def one_column(adata):
    adata.obsm["spatial"] = adata.obsm["spatial"][:, :1]


def gaps(adata):
    adata.obsm["spatial"][0] = np.nan


def nowhere(adata):
    adata.obsm["spatial"] = np.full((20, 2), np.nan)


def words(adata):
    adata.obsm["spatial"] = np.full((20, 2), "left", dtype=object)


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (None, {"groupby": "type"}, r"adata.obs has no column 'type'; its columns: 'batch', 'cell_type'"),
        (no_groups, {"groupby": "cell_type"}, r"No cell has a group in adata.obs\['cell_type'\]"),
        (None, {"batch_key": "sample"}, r"adata.obs has no column 'sample'"),
        (None, {"spatial_key": "xy"}, r"adata.obsm has no 'xy'; its keys: 'spatial'"),
        (one_column, {"spatial_key": "spatial"}, r"has shape \(20, 1\), but positions need two columns"),
        (gaps, {"spatial_key": "spatial"}, r"1 of 20 cells .* missing or infinite coordinates"),
        (nowhere, {"spatial_key": "spatial"}, r"No cell has finite coordinates in adata.obsm\['spatial'\]"),
        (words, {"spatial_key": "spatial"}, r"values that are no numbers \(.*'left'\)"),
        (None, {"k": 0}, r"k must be at least 1; got 0"),
        (None, {"k": 2.5}, r"k must be a whole number; got 2.5. Default: k=30"),
        (None, {"scale": "rows"}, r"scale must be one of 'shares', 'specific', 'raw'; got 'rows'"),
        (None, {"encoder_layer": 5}, r"has 1 encoder layers, 0 to 0; got encoder_layer=5"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(model, make_adata, damage, arguments, message, monkeypatch):
    adata = make_adata(20)
    if damage:
        damage(adata)
    monkeypatch.setattr(type(model.module.embedder), "forward", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(ValueError, match=message):
        sf.tl.cell_attention(adata, model=model, **{"device": "cpu"} | arguments)
    assert not adata.obsp
    assert not adata.uns
