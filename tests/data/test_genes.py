"""Genes are matched by name: what a data set calls them, in which order, and how often must not matter."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scfoundry._settings import logger
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.genes.match import own_names

CD3E, GAPDH, MARCHF1, TP53, MS4A1 = (
    "ENSG00000198851",
    "ENSG00000111640",
    "ENSG00000145416",
    "ENSG00000141510",
    "ENSG00000156738",
)
IDS = [CD3E, GAPDH, MARCHF1, TP53, MS4A1]
SYMBOLS = ["CD3E", "GAPDH", "MARCHF1", "TP53", "MS4A1"]
MOUSE_IDS = ["ENSMUSG00000032093", "ENSMUSG00000057666", "ENSMUSG00000036469", "ENSMUSG00000059552"]


@pytest.fixture
def warnings(caplog):
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING, logger="scfoundry"):
        yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(params=["ensembl", "ensembl with symbols", "symbol"])
def vocabulary(request) -> GeneVocabulary:
    if request.param == "symbol":
        return GeneVocabulary(SYMBOLS)
    return GeneVocabulary(IDS, SYMBOLS if "with" in request.param else None)


def adata_of(names, **var) -> ad.AnnData:
    X = np.zeros((1, len(names)), dtype=np.float32)
    return ad.AnnData(X, var=pd.DataFrame(var, index=pd.Index(names, dtype=str)))


# --- routes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gene", "route"),
    [
        (CD3E, 0, "ensembl"),
        (f"{CD3E}.10", 0, "ensembl"),
        (f"{CD3E}.10_PAR_Y", 0, "ensembl"),
        ("CD3E", 0, "symbol"),
        ("MARCH1", 2, "previous"),
        ("GAPD", 1, "previous"),
        ("p53", 3, "alias"),
        ("CD3epsilon", 0, "alias"),
        ("marchf1", 2, "case"),
        ("cd3E", 0, "case"),
    ],
)
def test_each_human_route_reaches_each_kind_of_vocabulary(vocabulary, name, gene, route):
    alignment = vocabulary.align([name])
    assert alignment.target.tolist() == [gene]
    assert alignment.route.tolist() == [route]


@pytest.mark.parametrize(
    ("names", "scheme"), [(MOUSE_IDS, "mouse_ensembl"), (["Cd3e", "Gapdh", "Marchf1", "Trp53"], "mouse_symbol")]
)
def test_mouse_data_go_by_their_orthologs_and_not_by_ignoring_case(vocabulary, names, scheme):
    alignment = vocabulary.align(names)
    assert alignment.scheme == scheme
    assert alignment.target.tolist() == [0, 1, 2, 3]
    assert set(alignment.route) == {scheme}


def test_older_mouse_symbols_are_known():
    assert GeneVocabulary([MARCHF1, CD3E]).align(["March1", "T3e"]).route.tolist() == ["mouse_symbol"] * 2


@pytest.mark.parametrize(
    ("names", "scheme"), [(IDS, "ensembl"), (SYMBOLS, "symbol"), (["MARCH1", "TP53", "Gm1234"], "symbol")]
)
def test_scheme_of_human_data_is_named(vocabulary, names, scheme):
    assert vocabulary.align(names).scheme == scheme


def test_names_spelled_as_in_the_vocabulary_need_no_table(monkeypatch):
    monkeypatch.setattr("scfoundry.data.genes.match.gene_names", lambda: pytest.fail("the table was loaded"))
    vocabulary = GeneVocabulary(["g0", "g1", CD3E], ["first", "second", "third"], aliases={"old": "g1"})
    alignment = vocabulary.align(["second", "g0", CD3E + ".1", "old"])
    assert alignment.target.tolist() == [1, 0, 2, -1]
    assert len(alignment.superseded) == 1


def test_custom_names_match_beside_names_nobody_knows():
    assert GeneVocabulary(["g0", "g1"]).align(["nobody", "g1"]).target.tolist() == [-1, 1]


def test_vocabulary_of_another_species_matches_what_is_spelled_alike():
    vocabulary = GeneVocabulary(["Cd3e", "Gapdh"], species="mouse")
    assert vocabulary.align(["Gapdh", "Cd3e", "CD3E"]).target.tolist() == [1, 0, -1]


# --- which gene a name means ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("other", "symbol"), [("F3", "TF"), ("RNASE1", "RAC1"), ("ADCY8", "ADCY3")])
def test_approved_symbol_wins_over_the_alias_or_old_name_of_another_gene(other, symbol):
    # HGNC lists each of these symbols under the other gene as well
    assert GeneVocabulary([other, symbol]).align([symbol, other]).target.tolist() == [1, 0]
    assert GeneVocabulary([other, "CD3E"]).align([symbol, "CD3E"]).target.tolist() == [-1, 1]


def test_old_name_of_two_genes_is_ambiguous():
    vocabulary = GeneVocabulary(["QARS1", "EPRS1", "CD3E"])
    assert vocabulary.align(["QARS", "CD3E"]).target.tolist() == [-1, 2]


def test_human_panel_of_nicknames_is_not_taken_for_mouse():
    alignment = GeneVocabulary(IDS).align(["p53", "CD3", "CD20"])
    assert alignment.target.tolist() == [3, -1, 4]


def test_symbol_shared_by_two_vocabulary_genes_is_ambiguous():
    vocabulary = GeneVocabulary(["g0", "g1", "g2"], ["same", "same", "other"])
    assert vocabulary.align(["same", "other"]).target.tolist() == [-1, 2]


def test_missing_values_are_not_the_gene_with_the_alias_nan():
    vocabulary = GeneVocabulary(["SCN10A", "CD3E"])
    assert vocabulary.align(["CD3E", "nan", "NaN", "nan-1", "7"]).target.tolist() == [1, -1, -1, -1, -1]


def test_retired_ensembl_id_is_a_previous_name_on_both_sides():
    old, new = "ENSG00000112096", "ENSG00000291237"  # SOD2
    assert GeneVocabulary([new]).align([old + ".17"]).route.tolist() == ["previous"]
    assert GeneVocabulary([old]).align([new]).target.tolist() == [0]
    assert GeneVocabulary([old]).align(["SOD2"]).target.tolist() == [0]


def test_outdated_symbols_of_the_vocabulary_are_understood():
    assert GeneVocabulary(["MARCH1", "GAPD"]).align(["GAPDH", "MARCHF1"]).target.tolist() == [1, 0]
    assert GeneVocabulary(["ENSG99999999999"], ["MARCH1"]).align(["MARCHF1"]).target.tolist() == [0]


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_equally_direct_columns_are_summed_with_a_warning(vocabulary, warnings):
    alignment = vocabulary.align(["CD3E", f"{CD3E}.3", "GAPDH"])
    assert alignment.target.tolist() == [0, 0, 1]
    assert "1 columns repeat" in warnings.text
    assert f"(CD3E, {CD3E}.3)" in warnings.text
    assert alignment.apply(sparse.csr_matrix([[1, 2, 4]])).toarray()[0, :2].tolist() == [3, 4]


def test_less_direct_column_is_another_gene_and_dropped(vocabulary, warnings):
    alignment = vocabulary.align(["p53", "TP53", "march1", "MARCH1", "GAPDH"])
    assert alignment.target.tolist() == [-1, 3, -1, 2, 1]
    assert alignment.route.tolist() == ["", "symbol", "", "previous", "symbol"]
    assert alignment.superseded.tolist() == [0, 2]
    assert alignment.report()["n_superseded"] == 2
    assert not warnings.records


@pytest.mark.parametrize("separator", ["-", "."])
def test_suffix_of_made_unique_names_comes_off(vocabulary, separator):
    alignment = vocabulary.align(["CD3E", f"CD3E{separator}1", f"GAPDH{separator}2"])
    assert alignment.target.tolist() == [0, 0, -1]  # GAPDH itself is not among the names


def test_suffix_stays_on_genes_that_are_called_so():
    vocabulary = GeneVocabulary(["NKX2", "NKX2-1", "HLA-A"])
    assert vocabulary.align(["NKX2", "NKX2-1", "HLA-A", "HLA"]).target.tolist() == [0, 1, 2, -1]
    assert GeneVocabulary(["NKX2"]).align(["NKX2", "NKX2-1"]).target.tolist() == [0, -1]


def test_a_name_that_was_made_unique_is_no_alias():
    dbi, ints6 = "ENSG00000155368", "ENSG00000102786"  # DBI-1 is an alias of INTS6
    vocabulary = GeneVocabulary([dbi, ints6])
    assert vocabulary.align(["DBI", "DBI-1"]).target.tolist() == [0, 0]
    assert vocabulary.align(["DBI", "DBI-1", "INTS6"]).target.tolist() == [0, 0, 1]
    assert vocabulary.align(["DBI-1"]).target.tolist() == [1]


@pytest.mark.parametrize("species", ["human", "zebrafish"])
def test_own_names_are_those_of_genes(species):
    names = np.array(["new", "CD3E", "new-1", "CD3E.2", "twice", "twice", "twice-1", "alone-1"], dtype=object)
    assert own_names(names, species).tolist() == ["CD3E", "alone-1", "new", "twice", "twice-1"]
    vocabulary = GeneVocabulary(own_names(names, species), species=species)
    assert vocabulary.ids[vocabulary.align(names).target].tolist() == [
        "new", "CD3E", "new", "CD3E", "twice", "twice", "twice-1", "alone-1"
    ]  # fmt: skip


# --- a column of Ensembl ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["gene_ids", "ensembl_id", "feature_id"])
def test_column_of_ensembl_ids_helps_where_names_do_not(vocabulary, column):
    adata = adata_of(["CD3E", "probe", "nameless"], **{column: [GAPDH, f"{TP53}.5", ""]})
    alignment = vocabulary.align(adata)
    assert alignment.target.tolist() == [0, 3, -1]
    assert alignment.route.tolist() == ["symbol", f"var['{column}']", ""]


def test_column_of_mouse_ids_helps_too():
    adata = adata_of(["0", "1"], gene_ids=pd.Categorical(MOUSE_IDS[:2]))
    alignment = GeneVocabulary(IDS).align(adata)
    assert alignment.target.tolist() == [0, 1]
    assert alignment.scheme == "mouse_ensembl"


def test_own_id_counts_more_than_the_suffix(vocabulary):
    adata = adata_of(["CD3E", "CD3E-1"], gene_ids=[CD3E, "ENSG00000999999"])
    assert vocabulary.align(adata).target.tolist() == [0, -1]


# --- low overlap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([str(i) for i in range(9)], r"row numbers or Entrez ids: set `adata.var_names`"),
        (
            ["ENSMUSG00000999999", "ENSMUSG00000999998"],
            r"mouse Ensembl ids .*ENSMUSG00000999999.* one-to-one orthologs",
        ),
        (["ENSDARG00000000001"], "another species"),
        (["ENSGALG00000000001"], "another species"),
        (["ENST00000361763.9"], "transcript ids"),
        (["1007_s_at", "1053_at"], "probe ids"),
        (["what", "ever"], "names of no known scheme"),
        (["PTPRC", "CD19", "CD8A"], r"gene symbols \(PTPRC, CD19, CD8A\).*not of the genes this model knows"),
        ([], "none at all"),
    ],
)
def test_no_overlap_names_both_schemes_and_the_fix(names, message):
    with pytest.raises(ValueError, match=message) as error:
        GeneVocabulary(IDS).align(names)
    assert f"human Ensembl ids ({CD3E}, {GAPDH}, {MARCHF1}, ...)" in str(error.value)
    assert "overlap 0.0%" in str(error.value)


def test_no_overlap_points_at_the_column_that_matches():
    adata = adata_of(["1", "2", "3"], feature_type="Gene Expression", feature_name=["CD3E", "GAPDH", "p53"], length=7)
    with pytest.raises(ValueError, match=r"feature_name` does match: `adata.var_names = adata.var\[.feature_name.\]`"):
        GeneVocabulary(IDS).align(adata)


@pytest.mark.parametrize(
    ("names", "fix"),
    [
        (["GRCh38_CD3E", "GRCh38_GAPDH", "mm10___Cd3e"], 'split("_").str[-1]'),
        (["CD3E|1", "GAPDH|2", "p53|3"], 'split("|").str[0]'),
    ],
)
def test_no_overlap_points_at_the_part_of_the_names_that_matches(names, fix):
    with pytest.raises(ValueError, match="Parts of the names do match") as error:
        GeneVocabulary(IDS).align(names)
    assert fix in str(error.value)


def test_min_overlap_is_the_callers_choice(warnings):
    names = ["CD3E", *(f"unknown{i}" for i in range(8))]
    vocabulary = GeneVocabulary(IDS)
    assert vocabulary.align(names).overlap == 0.2
    assert "Only 1 of 9 genes of the data are among the 5 of the vocabulary (overlap 20.0%)" in warnings.text
    with pytest.raises(ValueError, match="at least 30% is needed"):
        vocabulary.align(names, min_overlap=0.3)
    with pytest.raises(ValueError, match="Only 0 of 1 genes"):
        vocabulary.align(["unknown"], min_overlap=0)


# --- report -----------------------------------------------------------------------------------------------------------


def test_positions_and_summary_tell_the_same_story():
    alignment = GeneVocabulary(IDS).align(["p53", "unknown", "CD3E", "GAPD"])
    assert alignment.kept.tolist() == [0, 2, 3]
    assert alignment.dropped.tolist() == [1]
    assert alignment.measured.tolist() == [0, 1, 3]
    assert alignment.missing.tolist() == [2, 4]
    assert alignment.overlap == 0.75
    assert alignment.summary() == (
        "3 of 4 genes matched (alias 1, symbol 1, previous 1), 1 dropped, 2 of 5 vocabulary genes not measured"
    )


def test_report_survives_h5ad(tmp_path):
    adata = adata_of(["CD3E", "probe", "unknown", "p53"], gene_ids=[CD3E, GAPDH, "", ""])
    report = GeneVocabulary(IDS).align(adata).report()
    adata.uns["genes"] = report
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad").uns["genes"]
    assert read.keys() == report.keys()
    assert read["routes"] == {"symbol": 1, "var['gene_ids']": 1, "alias": 1}
    assert read["route"].tolist() == ["symbol", "var['gene_ids']", "", "alias"]
    assert read["route_gene"].tolist() == ["CD3E", "probe", "unknown", "p53"]
    assert (read["n_kept"], read["overlap"], read["scheme"]) == (3, 0.75, "symbol")


# --- the vocabulary itself --------------------------------------------------------------------------------------------


def test_symbols_are_filled_from_the_table():
    vocabulary = GeneVocabulary([*IDS, "ENSG00000999999"])
    assert vocabulary.symbols.tolist() == [*SYMBOLS, "ENSG00000999999"]
    assert vocabulary.scheme == "ensembl"
    assert GeneVocabulary(SYMBOLS).scheme == "symbol"


def test_index_of_knows_ids_symbols_and_aliases():
    vocabulary = GeneVocabulary(IDS, aliases={"T3E": CD3E})
    assert vocabulary.index_of(["GAPDH", f"{CD3E}.1", "T3E", "nobody"]).tolist() == [1, 0, 0, -1]
    assert "TP53" in vocabulary
    assert "nobody" not in vocabulary
    assert len(vocabulary) == 5
    assert repr(vocabulary) == f"GeneVocabulary of 5 human genes (ensembl: {CD3E}, {GAPDH}, {MARCHF1}, ...)"


@pytest.mark.parametrize("aliases", [{}, {"T3E": CD3E, "leu-4": CD3E, "G3PD": GAPDH}])
def test_write_and_read_give_the_same_vocabulary(tmp_path, aliases):
    vocabulary = GeneVocabulary([*IDS, "NA"], aliases=aliases)
    vocabulary.write(tmp_path / "genes.tsv")
    assert GeneVocabulary.read(tmp_path / "genes.tsv") == vocabulary
    header = (tmp_path / "genes.tsv").read_text().splitlines()[0]
    assert header == ("id\tsymbol\talias" if aliases else "id\tsymbol")


def test_reading_another_file_is_refused(tmp_path):
    (tmp_path / "genes.tsv").write_text("gene\tname\nA\tB\n")
    with pytest.raises(ValueError, match=r"genes\.tsv has the columns gene, name"):
        GeneVocabulary.read(tmp_path / "genes.tsv")


def test_reading_an_alias_of_several_genes_is_refused(tmp_path):
    (tmp_path / "genes.tsv").write_text("id\tsymbol\talias\nENSG1\tA\tX,Y\nENSG2\tB\tY\n")
    with pytest.raises(ValueError, match=r"genes\.tsv: an alias stands for one gene; \['Y'\] stand for several"):
        GeneVocabulary.read(tmp_path / "genes.tsv")


def test_subset_and_equality():
    vocabulary = GeneVocabulary(IDS, aliases={"T3E": CD3E})
    assert vocabulary.subset([4, 1]) == GeneVocabulary([MS4A1, GAPDH])
    assert vocabulary.subset(np.arange(5) < 2) == GeneVocabulary([CD3E, GAPDH], aliases={"T3E": CD3E})
    assert vocabulary != GeneVocabulary(IDS)
    assert GeneVocabulary(IDS) != GeneVocabulary(IDS, species="mouse")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": ["a", "b", "a"]}, r"must be unique; 1 repeat: a\. .*dict.fromkeys"),
        ({"ids": ["a", "b"], "symbols": ["a"]}, "2 ids but 1 symbols"),
        ({"ids": ["a"], "aliases": {"x": "b"}}, r"unknown: \['b'\]"),
    ],
)
def test_bad_vocabularies_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GeneVocabulary(**arguments)


# --- medians ----------------------------------------------------------------------------------------------------------

MEDIANS = np.array([0.1 + 0.2, 1 / 3, 100.447, 5e-324, 1.7976931348623157e308])


@pytest.mark.parametrize("aliases", [None, {"T3E": CD3E, "GAPD": GAPDH, "G3PD": GAPDH}])
def test_medians_are_written_and_read_to_the_last_bit(tmp_path, aliases):
    vocabulary = GeneVocabulary(IDS, SYMBOLS, aliases=aliases, medians=MEDIANS)
    vocabulary.write(tmp_path / "genes.tsv")
    back = GeneVocabulary.read(tmp_path / "genes.tsv")
    assert back == vocabulary
    assert back.medians.tobytes() == MEDIANS.tobytes()


def test_medians_follow_their_genes_and_cannot_be_changed():
    vocabulary = GeneVocabulary(IDS, medians=[1, 2, 3, 4, 5])
    assert vocabulary.medians.dtype == np.float64
    assert vocabulary.subset([3, 0]).medians.tolist() == [4, 1]
    assert vocabulary.subset(np.array([False, True, False, False, True])).medians.tolist() == [2, 5]
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.medians[0] = 7
    assert GeneVocabulary(IDS).medians is None
    assert GeneVocabulary(IDS).subset([0]).medians is None


def test_medians_tell_vocabularies_apart():
    assert GeneVocabulary(IDS, medians=MEDIANS) == GeneVocabulary(IDS, medians=MEDIANS.copy())
    assert GeneVocabulary(IDS, medians=MEDIANS) != GeneVocabulary(IDS, medians=MEDIANS[::-1])
    assert GeneVocabulary(IDS, medians=MEDIANS) != GeneVocabulary(IDS)


@pytest.mark.parametrize(
    ("medians", "message"),
    [
        ([1, 2], r"5 ids but medians of shape \(2,\); give one median per id"),
        ([1, 2, 0, 4, 5], r"positive and finite.*1 are not, the first is 0\.0 of gene 2.*sf\.pp\.gene_medians"),
        ([1, 2, 3, np.nan, np.inf], r"2 are not, the first is nan of gene 3"),
    ],
)
def test_bad_medians_are_refused(medians, message):
    with pytest.raises(ValueError, match=message):
        GeneVocabulary(IDS, medians=medians)
