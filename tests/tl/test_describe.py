"""Texts of labels and cells: the right term, the published layout, and nothing invented."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import scfoundry as sf
from scfoundry.data.labels import identities as _labels_identities
from scfoundry.data.labels.ontology import CellOntology

NK_TEXT = "cell type: natural killer cell. A lymphocyte that can spontaneously kill"


@pytest.fixture
def without_extra(monkeypatch):
    """As if the extra with the ontologies were not installed."""
    for cached in (_labels_identities._guide, _labels_identities._terms, _labels_identities._labels):
        cached.cache_clear()
    monkeypatch.setitem(sys.modules, "cellxgene_ontology_guide", None)
    monkeypatch.delitem(sys.modules, "cellxgene_ontology_guide.ontology_parser", raising=False)


@pytest.fixture
def with_extra():
    pytest.importorskip("cellxgene_ontology_guide", reason="needs the extra scfoundry-models[ontology]")


def cells(**obs: list[object]) -> AnnData:
    n_obs = len(next(iter(obs.values()), [0]))
    return AnnData(np.ones((n_obs, 1)), obs=pd.DataFrame(obs, index=[f"cell {i}" for i in range(n_obs)]))


# --- describe -------------------------------------------------------------------------------------------------------


def test_labels_get_term_text_and_route():
    table = sf.tl.describe(["NK", "CL:0000236", "SPP1+ macrophages"])
    assert table.index.name == "label"
    assert list(table.columns) == ["ontology_id", "name", "text", "route"]
    assert table["ontology_id"].tolist() == ["CL:0000623", "CL:0000236", "CL:0000235"]
    assert table["route"].tolist() == ["name", "id", "broader"]
    assert table.loc["NK", "text"].startswith(NK_TEXT)


def test_unknown_labels_stay_as_they_are_and_are_named(logged):
    table = sf.tl.describe(["NK", "cluster of my own"])
    assert table.loc["cluster of my own"].tolist() == [
        "",
        "cluster of my own",
        "cell type: cluster of my own.",
        "free text",
    ]
    assert any("'cluster of my own'" in message and "'NK'" not in message for message in logged)


def test_own_texts_are_kept_word_for_word_and_terms_are_still_found(logged):
    table = sf.tl.describe({"NK": "  It kills. ", "xyz": "cell type: xyz."})
    assert table["text"].tolist() == ["  It kills. ", "cell type: xyz."]
    assert table["route"].tolist() == ["given", "given"]
    assert table["ontology_id"].tolist() == ["CL:0000623", ""]
    assert logged == []


def test_the_term_that_an_own_text_names_counts_before_that_of_the_label():
    own = {"NK": "cell type: B cell. It makes antibodies.", "cluster 3": "monocyte", "B": "cell type: my favourite."}
    assert sf.tl.describe(own)["ontology_id"].tolist() == ["CL:0000236", "CL:0000576", "CL:0000236"]


def test_labels_with_one_meaning_share_a_term():
    table = sf.tl.describe(["B", "B cells", "CL:0000236"])
    assert table["ontology_id"].nunique() == 1
    assert table["text"].nunique() == 1


@pytest.mark.parametrize("kind", [pd.Series, pd.Categorical, lambda values: pd.Series(values, dtype="category")])
def test_a_column_is_described_once_per_value_in_any_order_of_cells(kind):
    labels = ["NK", "B", None, "NK"]
    table = sf.tl.describe(kind(labels))
    assert table.index.tolist() == ["B", "NK"]
    pd.testing.assert_frame_equal(table, sf.tl.describe(kind(labels[::-1])))


def test_unused_categories_are_left_out():
    assert sf.tl.describe(pd.Categorical(["NK"], categories=["B", "NK"])).index.tolist() == ["NK"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no label to describe"),
        ("NK", r"Pass a list: labels=\['NK'\]"),
        (["NK", " "], "Every label must be a string"),
        ([1, 2], r"labels must be a list \(of each: text\).*; got \[1, 2\]"),
        ({"NK": ""}, "Every text must be a string"),
    ],
)
def test_what_is_no_label_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        sf.tl.describe(labels)


def test_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="assay, cell type, development stage"):
        sf.tl.describe(["NK"], kind="celltype")


def test_other_kinds_name_the_extra(without_extra):
    with pytest.raises(ImportError, match=r"scfoundry-models\[ontology\]"):
        sf.tl.describe(["lung"], kind="tissue")


@pytest.mark.parametrize(
    ("kind", "label", "identifier"),
    [
        ("disease", "lung adenocarcinoma", "MONDO:0005061"),
        ("disease", "normal", "PATO:0000461"),
        ("tissue", "Lung", "UBERON:0002048"),
        ("tissue", "UBERON_0002048", "UBERON:0002048"),
        ("sex", "female", "PATO:0000383"),
        ("assay", "10x 3' v3", "EFO:0009922"),
    ],
)
def test_other_kinds_resolve_through_the_extra(with_extra, kind, label, identifier):
    row = sf.tl.describe([label], kind=kind).iloc[0]
    assert row["ontology_id"] == identifier
    assert row["text"].startswith(f"{kind}: ")


# --- describe_cells -------------------------------------------------------------------------------------------------


def test_identities_come_in_the_published_order_whatever_that_of_obs(without_extra):
    adata = cells(
        tissue=["blood"],
        sex=["female"],
        cell_type=["NK"],
        self_reported_ethnicity=["Finnish"],
        disease=["normal"],
        assay=["10x 3' v3"],
        tissue_general=["blood"],
        development_stage=["adult stage"],
    )
    (text,) = sf.tl.describe_cells(adata)
    assert [part.split(": ")[0] for part in text.split(" ; ")] == list(_labels_identities.IDENTITIES)
    assert text.startswith(f"assay: 10x 3' v3. ; {NK_TEXT}")
    assert "sex: female." in text


def test_what_the_missing_extra_leaves_out_is_told(without_extra, logged):
    sf.tl.describe_cells(cells(cell_type=["NK"]))
    assert not logged
    sf.tl.describe_cells(cells(cell_type=["NK"], disease=["normal"], tissue=["blood"]))
    assert "without the extra scfoundry-models[ontology], disease, tissue stay as written" in logged[0]


def test_missing_and_unknown_are_left_out(without_extra):
    adata = cells(cell_type=["NK", None, "Unknown"], sex=["na", "male", np.nan])
    texts = sf.tl.describe_cells(adata, definitions=False)
    assert texts.tolist() == ["cell type: natural killer cell.", "sex: male.", ""]


def test_ids_count_before_labels_and_labels_where_the_id_is_unknown():
    adata = cells(cell_type=["whatever", "NK"], cell_type_ontology_term_id=["CL:0000236", "unknown"])
    texts = sf.tl.describe_cells(adata, definitions=False)
    assert texts.tolist() == ["cell type: B cell.", "cell type: natural killer cell."]


def test_own_columns():
    adata = cells(annotation=["NK"], organ=["blood"])
    texts = sf.tl.describe_cells(adata, {"tissue": "organ", "cell type": "annotation"}, definitions=False)
    assert texts.tolist() == ["cell type: natural killer cell. ; tissue: blood."]


def test_result_follows_the_cells_and_obs_is_only_read():
    adata = cells(cell_type=pd.Categorical(["NK", "B", "NK"]), sex=["male", "male", "female"])
    before = adata.obs.copy()
    texts = sf.tl.describe_cells(adata)
    assert texts.index.equals(adata.obs_names)
    assert texts.cat.categories.size == 3
    assert sf.tl.describe_cells(adata[::-1]).tolist() == texts.tolist()[::-1]
    pd.testing.assert_frame_equal(adata.obs, before)


def test_many_cells_cost_one_look_up_per_value(monkeypatch):
    asked = []
    resolve = CellOntology.resolve
    monkeypatch.setattr(CellOntology, "resolve", lambda self, label: asked.append(label) or resolve(self, label))
    sf.tl.describe_cells(cells(cell_type=["NK", "B"] * 500))
    assert sorted(asked) == ["B", "NK"]


def test_definitions_of_other_identities_come_from_the_extra(with_extra):
    adata = cells(cell_type=["NK"], disease=["lung adenocarcinoma"], assay=["10x 3' v3"])
    (text,) = sf.tl.describe_cells(adata)
    parts = text.split(" ; ")
    assert parts[0] == "assay: 10x 3' v3."
    assert parts[2].startswith("disease: lung adenocarcinoma. ")
    assert len(parts[2]) > 60


def test_no_column_is_told_with_the_line_that_names_one():
    with pytest.raises(ValueError, match="it has leiden") as error:
        sf.tl.describe_cells(cells(leiden=["0"]))
    assert 'sf.tl.describe_cells(adata, {"cell type": "your_column"})' in str(error.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"cell type": "nope"}, "no column 'nope'"),
        ({"celltype": "leiden"}, "'celltype' is no identity"),
        ({}, "leiden"),
    ],
)
def test_wrong_columns_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        sf.tl.describe_cells(cells(leiden=["0"]), columns)


def test_cells_of_a_modality_are_described():
    adata = cells(cell_type=["NK", "B"])
    mdata = MuData({"rna": adata, "protein": cells(organ=["blood", "blood"])})
    described = sf.tl.describe_cells(mdata, definitions=False)
    assert described.tolist() == sf.tl.describe_cells(adata, definitions=False).tolist()
    with pytest.raises(ValueError, match="no modality 'atac'; it has 'rna', 'protein'"):
        sf.tl.describe_cells(mdata, modality="atac")
