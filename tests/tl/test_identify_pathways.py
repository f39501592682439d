"""Labels of which a cell may have several: what is learned, what is written, what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cases import with_pathways
from scipy import sparse

import scfoundry as sf


@pytest.fixture
def cells(make_adata):
    return with_pathways(make_adata(240), "interferon", "TNF/NFKB")


@pytest.fixture
def cellplm(make_adata):
    return sf.model.CellPLM(genes=make_adata().var_names, n_hidden=32, n_layers=1, n_latent=8)


def identified(cells, model, **arguments):
    how = {"pathways_key": "active", "device": "cpu", "copy": True} | arguments
    return sf.tl.identify_pathways(*cells, model=model, **how)


def test_every_pathway_is_told_on_its_own(by_expression, cells, tmp_path):
    adata, reference = cells
    before = adata.copy()
    assert sf.tl.identify_pathways(adata, reference, pathways_key="active", model=by_expression, device="cpu") is None
    assert set(adata.obsm) - set(before.obsm) == {"pathways"}
    assert set(adata.uns) - set(before.uns) == {"pathways"}
    found = adata.obsm["pathways"]
    assert found.columns.tolist() == ["interferon", "TNF|NFKB"]
    assert (found.dtypes == np.float32).all()
    right = (found.to_numpy() > 0.5) == adata.obsm["active"].to_numpy()
    assert right.mean() > 0.95
    both = adata.obsm["active"].all(axis=1)
    assert (found[both] > 0.5).all(axis=1).mean() > 0.9
    counts = adata.uns["pathways"]["reference"]["n_cells"]
    assert counts.tolist() == reference.obsm["active"].sum().tolist()
    del adata.obsm["active"]  # newer files refuse its name
    adata.write_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(ad.read_h5ad(tmp_path / "cells.h5ad").obsm["pathways"], found)


def test_a_table_may_be_sparse(by_expression, cells):
    reference = cells[1]
    reference.obsm["sparse"] = sparse.csr_matrix(reference.obsm["active"].to_numpy().astype(int))
    expected = identified(cells, by_expression).obsm["pathways"]
    found = identified(cells, by_expression, pathways_key="sparse").obsm["pathways"]
    np.testing.assert_array_equal(found, expected)


def test_a_transformer_learns_by_the_focal_loss_and_stays_as_it_was(reads_texts, cells):
    before = {name: tensor.clone() for name, tensor in reads_texts.module.state_dict().items()}
    found = identified(cells, reads_texts, train="all", max_epochs=1).obsm["pathways"]
    assert np.isfinite(found).all(axis=None)
    assert not np.allclose(found.sum(axis=1), 1)
    after = reads_texts.module.state_dict()
    assert before.keys() == after.keys()
    assert all((tensor == after[name]).all() for name, tensor in before.items())


@pytest.mark.parametrize(
    ("who", "how"),
    [("small_model", {}), ("cellplm", {}), ("by_expression", {}), ("reads_texts", {})],
)
def test_any_model_identifies_pathways(cells, who, how, request):
    found = identified(cells, request.getfixturevalue(who), **how).obsm["pathways"].to_numpy()
    assert ((found > 0.5) == cells[0].obsm["active"].to_numpy()).mean() > 0.9


@pytest.mark.parametrize("max_epochs", [1, 2])
def test_the_order_of_the_reference_does_not_matter_to_a_transformer(reads_texts, cells, max_epochs):
    adata, reference = cells
    one, other = (
        identified((adata, side), reads_texts, train="all", max_epochs=max_epochs).obsm["pathways"]
        for side in (reference, reference[::-1].copy())
    )
    np.testing.assert_allclose(other, one, atol=1e-5)


@pytest.mark.parametrize(
    ("who", "how"), [("by_expression", {}), ("reads_texts", {"train": "all", "max_epochs": 1}), ("reads_texts", {})]
)
def test_what_was_learned_is_kept_bit_for_bit(cells, who, how, request, tmp_path):
    adata, reference = cells
    how = how | {"pathways_key": "active", "model": request.getfixturevalue(who), "device": "cpu"}
    pathways = sf.tl.identify_pathways(adata, reference, return_fitted=True, **how)
    expected, uns = adata.obsm["pathways"].copy(), adata.uns["pathways"]
    pathways.save(tmp_path)
    sf.tl.identify_pathways(adata, model=tmp_path, device="cpu")
    pd.testing.assert_frame_equal(adata.obsm["pathways"], expected)
    pd.testing.assert_frame_equal(adata.uns["pathways"]["reference"], uns["reference"])


def test_arguments_of_no_effect_and_missing_ones_are_refused(small_model, cells):
    adata, reference = cells
    how = {"pathways_key": "active", "device": "cpu"}
    with pytest.raises(ValueError, match=r"pathways_key is missing: sf.tl.identify_pathways learns from a reference"):
        sf.tl.identify_pathways(adata, reference, model=small_model)
    pathways = sf.tl.identify_pathways(adata, reference, model=small_model, return_fitted=True, **how)
    with pytest.raises(ValueError, match=r"so that reference, pathways_key would have no effect"):
        sf.tl.identify_pathways(adata, reference, model=pathways, **how)
    with pytest.raises(ValueError, match=r"a copy of adata or the fitted object, not both"):
        sf.tl.identify_pathways(adata, reference, model=small_model, copy=True, return_fitted=True, **how)


def test_one_pathway_and_an_array_of_numbers(by_expression, cells):
    adata, reference = cells
    expected = identified(cells, by_expression).obsm["pathways"]["interferon"]
    reference.obsm["active"] = reference.obsm["active"].to_numpy(dtype=float)[:, :1]
    found = identified((adata, reference), by_expression).obsm["pathways"]
    assert found.columns.tolist() == ["0"]
    np.testing.assert_allclose(found["0"], expected, atol=1e-6)


def test_cells_with_missing_values_are_left_out_and_empty_ones_have_no_pathway(by_expression, cells):
    adata, reference = cells
    table = reference.obsm["active"].astype(object)
    table.iloc[:50, 0] = None
    reference.obsm["active"] = table
    adata.X[3] = 0
    result = identified((adata, reference), by_expression)
    assert result.uns["pathways"]["reference"]["n_cells"].tolist() == table.iloc[50:].sum().tolist()
    assert (result.obsm["pathways"].iloc[3] == 0).all()


def no_table(reference):
    del reference.obsm["active"]


def scores(reference):
    reference.obsm["active"] = reference.obsm["active"] * 0.7


def always(reference):
    reference.obsm["active"] = reference.obsm["active"].assign(always=True)


def twice(reference):
    reference.obsm["active"] = reference.obsm["active"].set_axis(["a", "a"], axis=1)


def no_column(reference):
    reference.obsm["active"] = reference.obsm["active"].iloc[:, :0]


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (no_table, {}, r"obsm has no table 'active'.*\(scores > threshold\)"),
        (scores, {}, r"holds 0.7, but must say 0 or 1"),
        (always, {}, r"'always' is active in all of the 120 cells"),
        (twice, {}, r"the column 'a' more than once"),
        (no_column, {}, r"has no column, but must say 0 or 1"),
        (None, {"train": "some"}, r"train must be one of 'all', 'lora', 'head'"),
        (None, {"train": "all"}, r"stay as they are.*Leave both out"),
        (None, {"max_epochs": 3}, r"without epochs.*max_epochs=3"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(by_expression, cells, damage, arguments, message):
    adata, reference = cells
    if damage is not None:
        damage(reference)
    before = set(adata.obsm), set(adata.uns)
    with pytest.raises(ValueError, match=message):
        sf.tl.identify_pathways(adata, reference, pathways_key="active", model=by_expression, device="cpu", **arguments)
    assert (set(adata.obsm), set(adata.uns)) == before
