"""Cell types from texts: what is written, what does not matter, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from mudata import MuData

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

TWO = ["B cell", "NK"]
LABELS = ["monocyte", "B cells", "NK", "mixture of my own"]


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata(12)


def annotated(adata: AnnData, texts: Any = LABELS, **arguments: Any) -> AnnData:
    return sf.tl.zero_shot_annotate(adata, texts, copy=True, device="cpu", **arguments)


def test_the_label_is_the_one_with_the_highest_score(reads_texts, adata):
    adata = annotated(adata, model=reads_texts)
    scores = adata.obsm["zero_shot_scores"]
    assert list(scores.columns) == list(adata.obs["zero_shot"].cat.categories) == sorted(LABELS)
    np.testing.assert_array_equal(adata.obs["zero_shot"], scores.idxmax(axis=1))
    np.testing.assert_array_equal(adata.obs["zero_shot_score"], scores.max(axis=1))
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_labels_are_read_by_their_ontology_term_and_its_definition(reads_texts, adata):
    result = annotated(adata, model=reads_texts)
    texts = result.uns["zero_shot"]["texts"]
    assert texts["ontology_id"].to_dict() == {
        "B cells": "CL:0000236",
        "NK": "CL:0000623",
        "mixture of my own": "",
        "monocyte": "CL:0000576",
    }
    assert texts.loc["B cells", "text"].startswith("cell type: B cell. A lymphocyte of B lineage")
    assert texts.loc["mixture of my own", "text"] == "cell type: mixture of my own."


def test_cells_carry_the_term_of_their_label_if_it_has_one(says, make_adata):
    result = annotated(make_adata(2), ["NK", "mixture of my own"], model=says([[0.1, 0.9], [0.9, 0.1]]))
    assert result.obs["zero_shot"].tolist() == ["mixture of my own", "NK"]
    assert result.obs["zero_shot_ontology_id"].cat.categories.tolist() == ["CL:0000623"]
    assert result.obs["zero_shot_ontology_id"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    "texts",
    [
        {"mine": "cell type: a b cell.", "yours": "cell type: a monocyte."},
        {"mine": ["cell type: a b cell.", "a lymphocyte"], "yours": ["cell type: a monocyte."]},
        ["cell type: a b cell.", "disease: a monocyte."],
        pd.DataFrame({"text": ["cell type: a b cell.", "cell type: a monocyte."]}, index=["mine", "yours"]),
        sf.tl.describe(["B cell", "monocyte"])["text"],
        pd.Index(["B cell", "monocyte"]),
        (label for label in ("B cell", "monocyte")),
    ],
    ids=["dict", "dict of lists", "whole texts", "table", "column of describe", "index", "generator"],
)
def test_texts_come_in_many_forms(reads_texts, adata, texts):
    assert annotated(adata, texts, model=reads_texts).obsm["zero_shot_scores"].shape == (12, 2)


@pytest.mark.parametrize("kind", ["object", "category"])
def test_a_column_of_obs_counts_every_value_once(says, adata, kind):
    labels = pd.Series(["NK", "B cell", None] * 4, index=adata.obs_names, name="text", dtype=kind)
    model = says(np.full((12, 2), 0.5))
    annotated(adata, labels, model=model)
    assert [label.name for label in model.labels] == TWO


def test_the_term_that_a_text_names_counts_before_that_of_the_label(says, adata, logged):
    model = says(np.full((12, 3), 1 / 3))
    own = {"B cell": "cell type: monocyte. It engulfs.", "NK": "It kills.", "x": "cell type: natural killer cell."}
    terms = annotated(adata, own, model=model).uns["zero_shot"]["texts"]["ontology_id"]
    assert terms.to_dict() == {"B cell": "CL:0000576", "NK": "CL:0000623", "x": "CL:0000623"}
    assert any("'NK' and 'x' both stand for 'natural killer cell' (CL:0000623)" in message for message in logged)


def test_own_texts_are_read_as_they_are(reads_texts, adata):
    result = annotated(adata, {"NK": "cell type: natural killer.", "B": ["a b", "a lymphocyte"]}, model=reads_texts)
    assert result.uns["zero_shot"]["texts"]["text"].to_dict() == {
        "B": "a b\na lymphocyte",
        "NK": "cell type: natural killer.",
    }


def test_a_term_is_read_by_several_prompts_only_where_the_weights_like_it(reads_texts, adata, monkeypatch):
    assert "\n" in annotated(adata, model=reads_texts).uns["zero_shot"]["texts"].loc["NK", "text"]
    monkeypatch.setattr(sf.model.LangCell, "averages_prompts", False)
    assert "\n" not in annotated(adata, model=reads_texts).uns["zero_shot"]["texts"].loc["NK", "text"]


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_everything_survives_a_file(reads_texts, adata, tmp_path: Path, kind):
    result = annotated(adata, [*LABELS, "T/NK"], model=reads_texts, groupby="batch")
    path = tmp_path / f"cells.{kind}"
    getattr(result, f"write_{kind}")(path)
    read = {"h5ad": ad.read_h5ad, "zarr": ad.read_zarr}[kind](path)
    assert "T|NK" in read.obsm["zero_shot_scores"]
    for table, expected in (
        (read.obsm["zero_shot_scores"], result.obsm["zero_shot_scores"]),
        (read.uns["zero_shot"]["texts"], result.uns["zero_shot"]["texts"]),
    ):
        assert table.columns.tolist() == expected.columns.tolist()
        assert table.index.tolist() == expected.index.tolist()
        np.testing.assert_array_equal(table, expected)
    assert read.obs["zero_shot"].tolist() == result.obs["zero_shot"].tolist()
    assert (read.obs["zero_shot_ontology_id"].isna() == result.obs["zero_shot_ontology_id"].isna()).all()
    assert read.uns["zero_shot"]["params"]["top_k"] == 5
    assert read.uns["zero_shot"]["provenance"]["model"] == "langcell"


def test_a_second_call_leaves_no_terms_of_the_first(reads_texts, adata):
    sf.tl.zero_shot_annotate(adata, ["B cell", "NK"], model=reads_texts, device="cpu")
    sf.tl.zero_shot_annotate(adata, {"x": "a b", "y": "a t"}, model=reads_texts, device="cpu")
    assert "zero_shot_ontology_id" not in adata.obs


# ---- what does not matter ------------------------------------------------------------------------------------------


def test_the_order_of_labels_does_not_matter(reads_texts, adata):
    one, other = (annotated(adata, texts, model=reads_texts) for texts in (LABELS, LABELS[::-1]))
    pd.testing.assert_frame_equal(one.obsm["zero_shot_scores"], other.obsm["zero_shot_scores"])
    pd.testing.assert_frame_equal(one.obs, other.obs)


def test_a_view_of_a_file_is_refused_before_computing_and_a_copy_of_a_file_is_in_memory(says, adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = says(np.full((12, 2), 0.5))
    with pytest.raises(ValueError, match=r"adata is a view of data on disk.*Load its 5 cells: adata = adata.to_memory"):
        sf.tl.zero_shot_annotate(backed[:5], TWO, model=model)
    assert not hasattr(model, "labels")
    assert not annotated(backed, TWO, model=model).isbacked
    mdata = MuData({"rna": backed})
    with pytest.raises(ValueError, match=r'adata = mdata.mod\["rna"\].to_memory\(\)'):
        annotated(mdata, TWO, model=model)


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        ([], {}, r"needs at least one text and got none"),
        (None, {}, r"texts must be a list .*; got None"),
        ({}, {}, r"needs at least one text and got none"),
        ("B cell", {}, r"texts must be a list .*; got 'B cell'. Pass a list: texts=\['B cell'\]"),
        (["B cell", 3], {}, r"texts must be a list \(of each: text\) .*; got \['B cell', 3\]"),
        (["B cell", " "], {}, r"must be strings that say something; got ' '"),
        ({"B cell": None}, {}, r"must be strings that say something; got None for 'B cell'"),
        ({"B cell": []}, {}, r"no text for 'B cell'"),
        (["B cell", "NK", "NK"], {}, r"got 'NK' more than once"),
        (["B cell", "unknown"], {}, r"'unknown' is what cells are called that no text fits"),
        (
            ["NK", "B", "natural killer cells"],
            {},
            r"'NK' and 'natural killer cells' both stand for 'natural killer cell' \(CL:0000623\)",
        ),
        (
            ["T/NK", "T|NK"],
            {},
            r"scores of 'T/NK' and 'T\|NK' would share the column 'T\|NK'.*Write 'T\|NK' in another",
        ),
        ({"x": "a b", "y": "a b"}, {}, r"'x' and 'y' have the same text"),
        (pd.DataFrame({"name": ["B cell"]}), {}, r"needs a column 'text'.* got 'name'"),
        (TWO, {"groupby": "cluster"}, r"no column 'cluster'; its columns: 'batch', 'cell_type'.*groupby=\"leiden\""),
        (TWO, {"unknown": 2}, r"compared with obs\[\"<key_added>_fit\"\]; got 2. The threshold of the weights"),
        (TWO, {"unknown": True}, r"unknown must be one of 'auto' or a finite number or None; got True"),
        (TWO, {"unknown": "never"}, r"unknown must be .* got 'never'"),
        (
            TWO,
            {"markers": {"T cell": ["CD3E"]}},
            r"markers for 'T cell', but no such label; the labels: 'B cell', 'NK'",
        ),
        (TWO, {"markers": {"NK": ["NOGENE"]}}, r"none of the markers of 'NK' \(NOGENE\) is a gene that both"),
        (TWO, {"markers": {"NK": "NKG7"}}, r"markers must be a dictionary \(of each: a list \(of each: text\)\)"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(reads_texts, adata, texts, arguments, message):
    before = adata.copy()
    with pytest.raises(ValueError, match=message):
        sf.tl.zero_shot_annotate(adata, texts, model=reads_texts, **arguments)
    assert list(adata.obs) == list(before.obs)
    assert (set(adata.obsm), set(adata.uns)) == (set(before.obsm), set(before.uns))


@pytest.mark.parametrize("name", ["alpha", "top_k", "mixture"])
def test_settings_of_one_model_are_no_arguments(reads_texts, adata, name):
    with pytest.raises(TypeError, match=name):
        annotated(adata, TWO, model=reads_texts, **{name: 1})


def test_weights_that_cannot_use_markers_say_so(reads_texts, adata):
    with pytest.raises(ValueError, match=r"'untrained' read ranked genes and texts and cannot use markers.* 'NK'"):
        annotated(adata, TWO, model=reads_texts, markers={"NK": [adata.var_names[0]]})


def test_then_scanpy_goes_on_as_usual(reads_texts, adata):
    sf.tl.zero_shot_annotate(adata, LABELS, model=reads_texts, device="cpu")
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    assert adata[adata.obs["zero_shot"] != "unknown"].n_obs == 12
