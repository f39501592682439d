"""The Cell Ontology and the labels of data sets: the right term or none."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections import Counter
from importlib import resources

import pandas as pd
import pytest
from anndata import read_h5ad

from scfoundry.data.labels.forms import label_key
from scfoundry.data.labels.ontology import CellOntology, CellType

B_CELL, T_CELL, NK, LYMPHOCYTE, CELL = "CL:0000236", "CL:0000084", "CL:0000623", "CL:0000542", "CL:0000000"


@pytest.fixture(scope="module")
def ontology() -> CellOntology:
    return CellOntology.load()


def name_of(ontology: CellOntology, label: str) -> str | None:
    term = ontology.resolve(label)
    return None if term is None else term.name


def test_table_is_compact_and_the_same_on_every_build():
    content = resources.files("scfoundry.data").joinpath("cell_ontology.tsv.gz").read_bytes()
    assert len(content) < 250_000
    assert content[4:8] == bytes(4)  # no time stamp
    ids = [line.split("\t")[0] for line in gzip.decompress(content).decode().splitlines()[1:]]
    assert ids == sorted(set(ids))


def test_every_term_has_a_name_and_known_parents(ontology):
    assert len(ontology) > 3_000
    assert [term.id for term in ontology if not term.parents] == [CELL]
    assert all(parent in ontology for term in ontology for parent in term.parents)
    assert sum(bool(term.definition) for term in ontology) > 0.95 * len(ontology)


def test_every_name_and_id_leads_to_its_own_term(ontology):
    assert all(ontology.resolve(term.name) == term for term in ontology)
    assert all(ontology.resolve(term.id) == term for term in ontology)


def test_retired_ids_lead_to_their_successor(ontology):
    term = next(term for term in ontology if term.former_ids)
    assert ontology.resolve(term.former_ids[0]) == term


def test_aliases_are_labels_of_existing_terms_and_contradict_nothing(ontology):
    lines = resources.files("scfoundry.data").joinpath("cell_type_aliases.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    assert [name for identifier, name, _ in rows if identifier != "-" and ontology[identifier].name != name] == []
    labels = [(label, identifier) for identifier, _, joined in rows for label in joined.split("|")]
    assert [key for key, n in Counter(label_key(label) for label, _ in labels).items() if n > 1] == []
    for label, identifier in labels:
        found = ontology.resolve(label)
        assert (found is None) if identifier == "-" else (found is not None and found.id == identifier), label


@pytest.mark.parametrize(
    "label",
    ["CL:0000236", "cl_0000236", "http://purl.obolibrary.org/obo/CL_0000236", " B cell ", "B-CELLS", "Bcells", "b"],
)
def test_ids_and_spellings_of_one_type(ontology, label):
    assert ontology.resolve(label) == ontology[B_CELL]


@pytest.mark.parametrize(
    "labels",
    [
        ["CD14+ Monocyte", "CD14-positive monocyte", "CD14pos Mono", "CD14⁺ monocytes", "Mono_CD14", "CD14 monocyte"],
        ["CD16 Mono", "FCGR3A+ Mono", "CD16+ monocytes", "CD14-low, CD16-positive monocyte"],
        ["CD4 T", "T_CD4", "CD4+ T-cells", "T cells (CD4+)", "T cells, CD4+", "CD4-positive, alpha-beta T cell"],
        ["Naive CD4 T", "CD4 Naive", "CD4 Naive T", "CD4+ naïve T lymphocytes", "CD4+/CD45RA+/CD25- Naive T"],
        ["γδ T cells", "gdT", "gamma-delta T cell", "Gamma delta T cells"],
        ["helper T cells (CD4+)", "CD4+ T helper", "CD4-positive helper T cell"],
        ["NK", "NK cells", "CD56+ NK", "Natural killer (NK) cells", "natural killer cell"],
        ["Mph", "Mφ", "macrophages", "Mac", "TAMs"],
        ["type II pneumocyte", "AT2", "pneumocyte type 2", "alveolar type II cells", "pulmonary alveolar type 2 cell"],
        ["HSPC", "CD34+", "HSC/MPP", "hematopoietic precursor cell"],
        ["GC B", "germinal centre B cell", "B GC"],
        ["CD56dim NK", "NK_CD56dim", "CD56lo NK cells"],
    ],
    ids=lambda labels: labels[0],
)
def test_spellings_of_one_label_agree(ontology, labels):
    assert len({name_of(ontology, label) for label in labels} - {None}) == 1


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("pDC", "plasmacytoid dendritic cell"),
        ("mDC", "myeloid dendritic cell"),
        ("cDC1", "CD141-positive myeloid dendritic cell"),
        ("DC2", "CD1c-positive myeloid dendritic cell"),
        ("Treg", "regulatory T cell"),
        ("MAIT", "mucosal-associated invariant T cell"),
        ("ILC", "innate lymphoid cell"),
        ("CD8 TEM", "effector memory CD8-positive, alpha-beta T cell"),
        ("CD8+ Cytotoxic T", "CD8-positive, alpha-beta cytotoxic T cell"),
        ("B_Plasma", "plasma cell"),
        ("CD19+ B", "B cell"),
        ("Mk", "megakaryocyte"),
        ("HSC", "hematopoietic stem cell"),
        ("RBC", "erythrocyte"),
        ("CAFs", "fibroblast"),
        ("PVL", "mural cell"),
        ("pericyte/PVL", "pericyte"),
        ("VSMC", "vascular associated smooth muscle cell"),
        ("OPC", "oligodendrocyte precursor cell"),
        ("Cancer Epithelial", "malignant cell"),
        ("beta", "type B pancreatic cell"),
        ("EC arterial", "endothelial cell of artery"),
        ("Eryth", "erythroid lineage cell"),
        ("Tcm", "memory T cell"),
        ("TEM", "memory T cell"),
        ("iPSCs", "pluripotent stem cell"),
        ("NK bright", "CD16-negative, CD56-bright natural killer cell, human"),
    ],
)
def test_labels_of_the_field(ontology, label, name):
    assert name_of(ontology, label) == name


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Ductal - MHC Class II", "duct epithelial cell"),
        ("Macrophages A", "macrophage"),
        ("CD8 TEM_4", "effector memory CD8-positive, alpha-beta T cell"),
        ("SPP1+ macrophages", "macrophage"),
        ("resting IFNG+ CD8 T cells", "CD8-positive, alpha-beta T cell"),
        ("T cells CD8+ GZMK+", "CD8-positive, alpha-beta T cell"),
        ("Oligodendrocytes (non-malignant)", "oligodendrocyte"),
        ("Goblet (nasal)", "goblet cell"),
        ("Microglia/Macrophage", "macrophage"),
        ("Myeloid: CD14 Mono", "CD14-positive monocyte"),
    ],
)
def test_labels_that_say_more_resolve_to_what_is_surely_right(ontology, label, name):
    match = ontology.match(label)
    assert (match.term.name, match.route) == (name, "broader")


@pytest.mark.parametrize(
    "label",
    [
        *("", "unknown", "unassigned", "Doublets", "T cell doublets", "low quality", "nan", "other", "Mature cells"),
        *("T cells & NK cells", "T/NK", "T_NK", "B cells and T cells", "T cells (malignant)", "Epithelial - T cells"),
        *("PC", "SC", "EPI", "MC", "dnT", "M", "7", "IC", "DP", "crypt cells"),
        *("K562", "A549", "Hippocampus", "Lhx6", "B cell-like tumor", "T cell leukemia", "NK-like T cells"),
        *("CL:9999999", "UBERON:0000955", "monocyt", "CD14", "CD25-"),
    ],
)
def test_no_term_rather_than_a_wrong_one(ontology, label):
    assert ontology.match(label) is None


# Cell lines, names of genes, regions and clusters, a union: what data sets call cell type and is none.
NO_TYPES = {
    *("HEK", "KG1", "K562", "THP1", "k562", "A172", "T98G", "U87MG", "A549", "H1975", "H2228", "H838", "HCC827"),
    *("GM12878", "H1", "H1437", "HCT116", "IMR90"),
    *("unassigned", "Hippocampus", "L5-1", "Lhx6", "NPY", "Reln", "T cells & NK cells", "NK/T Cell"),
    # Groups of one study, which its paper describes and no ontology has.
    *("Excit.1", "Excit.2", "Inhib.1", "Inhib.2", "Micro", "PE", "activated_stellate", "quiescent_stellate"),
    *("CD8 T Cell GZMK_high", "CD8 T Cell TRBV4-2_high", "High Proliferation CD8 T Cell"),
    *("Endothelial Cell SELE_high", "T Cell LTB_high"),
}
# Mean profiles of hundreds of studies, under the names that each gave its own groups.
PROFILES = "celltype_profiles_human"


def test_labels_of_real_data_resolve(ontology, shared_data):
    labels = set()
    for path in sorted(set(shared_data.glob("*.h5ad")) - {shared_data / f"{PROFILES}.h5ad"}):
        obs = read_h5ad(path, backed="r").obs
        labels |= set(obs.get("cell_type", pd.Series(dtype=str)).astype(str))
    assert len(labels) > 100
    assert {label for label in labels if ontology.resolve(label) is None} == NO_TYPES & labels


def test_nk_t_cells_are_a_type_but_t_and_nk_cells_a_union(ontology):
    assert name_of(ontology, "NK T cells") == "mature NK T cell"
    assert ontology.resolve("T NK") is None


def test_minus_belongs_to_a_marker_and_hyphen_to_a_word(ontology):
    assert label_key("CD16- monocyte") != label_key("CD16-monocyte") == label_key("CD16+ monocyte")
    assert label_key("CD4-CD8- T") == label_key("CD4-negative, CD8-negative T cell")


@pytest.mark.parametrize(("label", "route"), [("CL:0000236", "id"), ("b cell", "name"), ("MAIT", "alias")])
def test_match_tells_the_route(ontology, label, route):
    assert ontology.match(label).route == route


def test_ancestors_and_descendants_are_strict_and_mirror_each_other(ontology):
    assert {LYMPHOCYTE, CELL} <= ontology.ancestors(B_CELL)
    assert T_CELL not in ontology.ancestors(B_CELL)
    assert B_CELL not in ontology.ancestors(B_CELL) | ontology.descendants(B_CELL)
    assert {B_CELL, T_CELL, NK} <= ontology.descendants(LYMPHOCYTE)
    assert len(ontology.descendants(CELL)) == len(ontology) - 1
    assert all(B_CELL in ontology.ancestors(kind) for kind in ontology.descendants(B_CELL))


def test_unknown_id_names_the_way_to_find_labels(ontology):
    assert "NK" not in ontology
    with pytest.raises(KeyError, match="resolve"):
        ontology["NK"]


def test_text_and_prompts(ontology):
    definition = "A lymphocyte of B lineage that is capable of B cell mediated immunity."
    assert ontology.text(ontology[B_CELL]) == f"cell type: B cell. {definition}"
    prompts = ontology.prompts(ontology[B_CELL], n_synonyms=1)
    assert prompts[:3] == ("cell type: B cell.", f"cell type: B cell. {definition}", "cell type: B lymphocyte.")
    assert prompts[-1] == "cell type: B cell, a kind of lymphocyte of B lineage."
    assert len(prompts) == 4


def test_own_terms_without_definition_or_parents():
    own = CellOntology([CellType("X:1", "pod cell"), CellType("X:2", "blue pod cell", parents=("X:1",))])
    assert own.text(own["X:1"]) == "cell type: pod cell."
    assert own.prompts(own["X:1"]) == ("cell type: pod cell.",)
    assert own.resolve("Pod cells").id == "X:1"
    assert own.descendants("X:1") == {"X:2"}


def test_a_synonym_of_several_terms_resolves_to_none():
    terms = [CellType(f"X:{i}", f"pod {i} cell", synonyms=("shared pod",)) for i in (1, 2)]
    assert CellOntology(terms).resolve("shared pods") is None


def test_loading_needs_neither_torch_nor_pandas():
    code = (
        "import sys, scfoundry.data.labels.ontology as o; o.CellOntology.load(); "
        "print({'torch', 'pandas'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout.strip() == "set()"
