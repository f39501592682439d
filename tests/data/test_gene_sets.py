"""Gene sets from files and dicts, and where their genes stand in a vocabulary."""

import gzip

import pytest

from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.genes.gene_sets import members_of, read_gene_sets

GMT = "T cells\thttp://somewhere\tCD3E\tCD3D\t\n\nhouse keeping\t\tGAPDH\n"


@pytest.mark.parametrize("name", ["sets.gmt", "sets.gmt.gz"])
def test_a_file_holds_what_a_dict_would(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(GMT.encode()) if name.endswith("gz") else GMT.encode())
    expected = {"T cells": ["CD3E", "CD3D"], "house keeping": ["GAPDH"]}
    assert read_gene_sets(path) == read_gene_sets(str(path)) == read_gene_sets(expected) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CD3E CD3D\n", r"sets.gmt, line 1 has no genes. A GMT file has"),
        (GMT + "T cells\t\tCD2\n", r"line 4 names the set 'T cells' again"),
        ("", r"There are no gene sets"),
    ],
)
def test_a_damaged_file_is_refused_by_its_line(tmp_path, text, message):
    path = tmp_path / "sets.gmt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_gene_sets(path)


def test_a_file_that_is_not_there_is_missed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*sets\.gmt\. A GMT file has"):
        read_gene_sets(tmp_path / "sets.gmt")


@pytest.mark.parametrize("name", ["sets.gmt", "sets.gmt.gz"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", gzip.compress(GMT.encode(), mtime=0)[:20]], ids=["bytes", "cut"])
def test_a_file_that_is_no_text_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged, or no GMT file .*Or pass a dict"):
        read_gene_sets(tmp_path / name)


def test_genes_are_found_by_symbol_old_symbol_and_identifier_once_each():
    vocabulary = GeneVocabulary(["ENSG00000198851", "ENSG00000145416", "ENSG00000111640"])
    found = members_of({"a": ["GAPDH", "CD3E", "ENSG00000198851", "no gene"], "b": ["MARCH1"], "c": []}, vocabulary)
    assert {name: positions.tolist() for name, positions in found.items()} == {"a": [0, 2], "b": [1], "c": []}
