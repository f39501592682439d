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


def test_writes_the_documented_slots_and_nothing_else(reads_texts, adata):
    before = adata.copy()
    assert sf.tl.zero_shot_annotate(adata, LABELS, model=reads_texts, device="cpu") is None
    added = {"zero_shot", "zero_shot_score", "zero_shot_fit", "zero_shot_ontology_id"}
    assert set(adata.obs) - set(before.obs) == added
    assert set(adata.obsm) - set(before.obsm) == {"zero_shot_scores"}
    assert set(adata.uns) - set(before.uns) == {"zero_shot"}
    assert (adata.X != before.X).nnz == 0
    scores = adata.obsm["zero_shot_scores"]
    assert list(scores.columns) == list(adata.obs["zero_shot"].cat.categories) == sorted(LABELS)
    assert scores.index.equals(adata.obs_names)
    assert (scores.dtypes == np.float32).all()
    assert adata.obs["zero_shot_score"].dtype == adata.obs["zero_shot_fit"].dtype == np.float32
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
    result = annotated(adata, [*LABELS, "T/NK"], model=reads_texts, group_by="batch")
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


def reverse_cells(adata):
    return adata[::-1].copy()


def reverse_genes(adata):
    return adata[:, ::-1].copy()


@pytest.mark.parametrize("change", [reverse_cells, reverse_genes])
def test_the_order_of_cells_and_genes_does_not_matter(reads_texts, adata, change):
    expected = annotated(adata, model=reads_texts)
    result = annotated(change(adata), model=reads_texts)[adata.obs_names]
    np.testing.assert_allclose(result.obsm["zero_shot_scores"], expected.obsm["zero_shot_scores"], atol=1e-5)
    assert result.obs["zero_shot"].astype(str).equals(expected.obs["zero_shot"].astype(str))


def test_the_order_of_labels_does_not_matter(reads_texts, adata):
    one, other = (annotated(adata, texts, model=reads_texts) for texts in (LABELS, LABELS[::-1]))
    pd.testing.assert_frame_equal(one.obsm["zero_shot_scores"], other.obsm["zero_shot_scores"])
    pd.testing.assert_frame_equal(one.obs, other.obs)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(reads_texts, adata, batch_size):
    expected = annotated(adata, model=reads_texts).obsm["zero_shot_scores"]
    scores = annotated(adata, model=reads_texts, batch_size=batch_size).obsm["zero_shot_scores"]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_the_kind_of_matrix_does_not_matter(reads_texts, adata, as_array):
    expected = annotated(adata, TWO, model=reads_texts).obsm["zero_shot_scores"]
    adata.X = as_array(adata.X.toarray())
    sf.tl.zero_shot_annotate(adata, TWO, model=reads_texts, device="cpu")
    np.testing.assert_allclose(adata.obsm["zero_shot_scores"], expected, atol=1e-5)


def test_data_on_disk_are_annotated_without_being_loaded(reads_texts, adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    sf.tl.zero_shot_annotate(backed, LABELS, model=reads_texts, device="cpu")
    assert backed.isbacked
    expected = annotated(adata, model=reads_texts)
    pd.testing.assert_frame_equal(backed.obsm["zero_shot_scores"], expected.obsm["zero_shot_scores"])


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


def test_a_modality_of_mudata(reads_texts, adata):
    mdata = MuData({"rna": adata, "protein": ad.AnnData(np.ones((12, 3)), obs=adata.obs[[]])})
    sf.tl.zero_shot_annotate(mdata, LABELS, model=reads_texts, device="cpu")
    assert "zero_shot" in mdata.mod["rna"].obs


# ---- bad input -----------------------------------------------------------------------------------------------------


def scaled(adata):
    adata.X = adata.X.toarray() - 1.5


def probe_names(adata):
    adata.var_names = [f"probe_{i}_at" for i in range(adata.n_vars)]


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        ([], {}, r"needs at least one text and got none"),
        (None, {}, r"needs at least one text and got none"),
        ({}, {}, r"needs at least one text and got none"),
        ("B cell", {}, r"got one string. Pass a list: texts=\['B cell', ...\]"),
        (["B cell", 3], {}, r"must be strings that say something; got 3"),
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
        (TWO, {"layer": "counts"}, r"no 'counts'; layers of this AnnData: none"),
        (TWO, {"group_by": "cluster"}, r"no column 'cluster'; its columns: 'batch', 'cell_type'.*group_by=\"leiden\""),
        (TWO, {"unknown": 2}, r"compared with obs\[\"<key_added>_fit\"\]; got 2. The threshold of the weights"),
        (TWO, {"unknown": True}, r"a number between 0 and 1 .* got True"),
        (TWO, {"unknown": "never"}, r"unknown must be .* got 'never'"),
        (
            TWO,
            {"markers": {"T cell": ["CD3E"]}},
            r"markers for 'T cell', but no such label; the labels: 'B cell', 'NK'",
        ),
        (TWO, {"markers": {"NK": ["NOGENE"]}}, r"none of the markers of 'NK' \(NOGENE\) is a gene that both"),
        (TWO, {"markers": {"NK": "NKG7"}}, r"must be a list of genes: markers=\{\"NK\": \[\"NKG7\"\]\}"),
        (TWO, {"batch_size": 0}, r"batch_size must be at least 1"),
        (TWO, {"precision": "float8"}, r"precision must be one of"),
        (TWO, {"modality": "rna", "device": "cuda"}, r"device='cuda' was asked for"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    reads_texts, adata, texts, arguments, message, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = adata.copy()
    with pytest.raises(ValueError, match=message):
        sf.tl.zero_shot_annotate(adata, texts, model=reads_texts, **arguments)
    assert list(adata.obs) == list(before.obs)
    assert (set(adata.obsm), set(adata.uns)) == (set(before.obsm), set(before.uns))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(scaled, r"sf.tl.zero_shot_annotate needs raw counts.*negative"), (probe_names, r"probe_0_at.*ENSG")],
)
def test_bad_data_are_refused(reads_texts, adata, damage, message):
    damage(adata)
    with pytest.raises(ValueError, match=message):
        annotated(adata, model=reads_texts)


@pytest.mark.parametrize("name", ["alpha", "top_k", "mixture"])
def test_settings_of_one_model_are_no_arguments(reads_texts, adata, name):
    with pytest.raises(TypeError, match=name):
        annotated(adata, TWO, model=reads_texts, **{name: 1})


def test_weights_that_cannot_use_markers_say_so(reads_texts, adata):
    with pytest.raises(ValueError, match=r"'untrained' read ranked genes and texts and cannot use markers.* 'NK'"):
        annotated(adata, TWO, model=reads_texts, markers={"NK": [adata.var_names[0]]})


def test_models_without_texts_are_refused(adata):
    model = sf.model.CellPLM(genes=adata.var_names, n_hidden=32, n_latent=6)
    with pytest.raises(ValueError, match=r"cannot use CellPLM, which reads no texts. Use weights that can"):
        annotated(adata, TWO, model=model)


def test_an_interrupt_leaves_nothing_behind(reads_texts, adata, monkeypatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sf.model.LangCell, "score_texts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sf.tl.zero_shot_annotate(adata, TWO, model=reads_texts)
    assert not [key for key in (*adata.obs, *adata.obsm, *adata.uns) if key.startswith("zero_shot")]


def test_then_scanpy_goes_on_as_usual(reads_texts, adata):
    sf.tl.zero_shot_annotate(adata, LABELS, model=reads_texts, device="cpu")
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    assert adata[adata.obs["zero_shot"] != "unknown"].n_obs == 12
