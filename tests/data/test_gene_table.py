"""The shipped table of gene names: compact, free of contradictions, and right where everybody can check."""

from __future__ import annotations

import gzip
from importlib import resources

import pandas as pd
import pytest

CD3E, GAPDH, MARCHF1 = "ENSG00000198851", "ENSG00000111640", "ENSG00000145416"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    content = resources.files("scfoundry.data").joinpath("human_genes.tsv.gz").read_bytes()
    assert len(content) < 1.6e6
    assert content[4:8] == bytes(4)  # no time stamp: the same table is the same file
    lines = [line.split("\t") for line in gzip.decompress(content).decode().splitlines()]
    return pd.DataFrame(lines[1:], columns=lines[0])


def test_table_is_sorted_and_named_throughout(table):
    columns = ["ensembl_id", "symbol", "biotype", "previous", "alias", "mouse_symbol", "mouse_ensembl"]
    assert list(table.columns) == columns
    assert table["ensembl_id"].is_monotonic_increasing
    assert table["ensembl_id"].is_unique
    assert table["ensembl_id"].str.fullmatch(r"ENSG\d{11}").all()
    assert (table[["symbol", "previous", "alias"]] != "").any(axis=1).all()


@pytest.mark.parametrize("columns", [["symbol", "previous", "alias"], ["mouse_symbol"], ["mouse_ensembl"]])
def test_every_name_leads_to_one_gene(table, columns):
    names = pd.concat([table[column].str.split(",").explode() for column in columns])
    assert names[names != ""].is_unique


def test_facts_everybody_knows(table):
    genes = table.set_index("ensembl_id")
    assert genes.loc[[CD3E, GAPDH, MARCHF1], "symbol"].tolist() == ["CD3E", "GAPDH", "MARCHF1"]
    assert genes.loc[MARCHF1, "previous"] == "MARCH1"
    assert genes.loc[[CD3E, GAPDH], "mouse_symbol"].tolist() == ["Cd3e,T3e", "Gapd,Gapdh"]
    assert genes.loc[CD3E, "mouse_ensembl"] == "ENSMUSG00000032093"
    assert genes.loc[CD3E, "biotype"] == "protein_coding"
    assert 19_000 < (genes["biotype"] == "protein_coding").sum() < 20_500
    assert (genes["mouse_symbol"] != "").sum() > 16_000
