"""The table of cell types for users."""

from __future__ import annotations

import scfoundry as sf


def test_one_row_per_cell_type():
    table = sf.datasets.cell_ontology()
    assert table.index.name == "id"
    assert table.index.is_unique
    assert list(table.columns) == ["name", "definition", "synonyms", "parents"]
    assert table.loc["CL:0000236"].tolist() == [
        "B cell",
        "A lymphocyte of B lineage that is capable of B cell mediated immunity.",
        ("B lymphocyte", "B-cell", "B-lymphocyte"),
        ("CL:0000945",),
    ]


def test_changing_the_table_changes_no_later_one():
    table = sf.datasets.cell_ontology()
    table.loc["CL:0000236", "name"] = "changed"
    assert sf.datasets.cell_ontology().loc["CL:0000236", "name"] == "B cell"
