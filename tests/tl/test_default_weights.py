"""The weights that ship with the package, called with nothing but data: 700 real blood cells that come with scanpy."""

import numpy as np
import pytest
import scanpy as sc
from sklearn.neighbors import KNeighborsClassifier

import scfoundry as sf

MERGED = {
    "CD14+ Monocyte": "monocyte",
    "CD19+ B": "B cell",
    "CD56+ NK": "NK cell",
    "CD34+": "CD34+ progenitor",
    "Dendritic": "dendritic cell",
}


@pytest.fixture(scope="module")
def blood():
    adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    adata.obs["type"] = [MERGED.get(label, "T cell") for label in adata.obs["bulk_labels"]]
    return adata


def test_cells_are_named_from_plain_words(blood):
    sf.tl.zero_shot_annotate(blood, blood.obs["type"], unknown=None)
    score = sf.metrics.annotation(blood.obs["type"], blood.obs["zero_shot"])
    assert score["accuracy"] > 0.86
    assert score["macro_f1"] > 0.86
    assert blood.uns["zero_shot"]["provenance"]["model"] == "cellnamer"
    assert blood.uns["zero_shot"]["provenance"]["citation"].startswith("scfoundry developers 2026, CellNamer")


def test_order_and_batches_do_not_move_the_names(blood):
    found, again = blood.copy(), blood[::-1, ::-1].copy()
    texts = blood.obs["type"].unique()
    sf.tl.zero_shot_annotate(found, texts)
    sf.tl.zero_shot_annotate(again, texts, batch_size=7)
    assert (again.obs["zero_shot"].astype(str)[found.obs_names] == found.obs["zero_shot"].astype(str)).all()
    moved = again[found.obs_names].obsm["zero_shot_scores"]
    np.testing.assert_allclose(moved, found.obsm["zero_shot_scores"], atol=2e-6)


def test_a_type_that_is_not_offered_is_unknown(blood):
    labels = [*blood.obs["type"].unique(), "plasma cell"]
    labels.remove("B cell")
    sf.tl.zero_shot_annotate(blood, labels, key_added="without_b")
    unknown = blood.obs["without_b"] == "unknown"
    # A third of the authors' B cells are plasma cells.
    assert unknown[blood.obs["type"] == "B cell"].mean() > 0.4
    assert unknown[blood.obs["type"] != "B cell"].mean() < 0.05


def test_few_labelled_cells_teach_the_rest(blood):
    cells, reference = blood[::2].copy(), blood[1::2].copy()
    sf.tl.annotate(cells, reference, labels_key="type", n_shots=9)
    assert (cells.obs["annotation"].astype(str) == cells.obs["type"]).mean() > 0.85


def test_texts_find_their_cells(blood):
    hits = sf.tl.retrieve(blood, ["NK cell", "monocyte", "B cell"], k=10)
    found = blood.obs["type"].loc[hits["obs_name"]].to_numpy()
    assert (found == hits["query"].to_numpy()).mean() > 0.9


def test_cells_are_ranked_by_the_medians_of_the_weights(blood):
    sf.pp.rank_encode(blood)
    ranks = blood.obsm["X_rank"]
    assert ranks.shape == (700, 2048)
    assert np.diff(ranks.indptr).min() > 50


def test_the_embedding_separates_types(blood):
    sf.tl.embed(blood, model="cellnamer")
    assert sf.metrics.clustering(blood, use_rep="X_cellnamer", labels_key="type")["knn_accuracy"] > 0.85


@pytest.mark.parametrize("model", ["cellplm", "celler"])
def test_cells_of_a_type_lie_together(blood, model):
    sf.tl.embed(blood, model=model, adapt=None, key_added="latent")
    cells, types = blood.obsm["latent"], blood.obs["type"].to_numpy()
    neighbours = KNeighborsClassifier(15).fit(cells[::2], types[::2])
    # With random weights 0.7.
    assert (neighbours.predict(cells[1::2]) == types[1::2]).mean() > 0.85


def test_cells_of_blood_are_rather_of_normal_tissue(blood):
    with pytest.warns(UserWarning, match="confounded with the study"):
        sf.tl.discriminate_tumour(blood)
    assert blood.obs["tumour_probability"].median() < 0.3


def test_codes_of_pathway_tokens_go_with_programmes_of_blood(blood):
    antigens = {"antigen presentation": ["HLA-DRA", "HLA-DRB1", "HLA-DPA1", "HLA-DPB1", "HLA-DQA1", "CD74"]}
    sf.tl.pathway_tokens(blood, gene_sets=antigens)
    result = blood.uns["pathway_tokens"]
    assert result["provenance"]["weights"] == "scpalm-mini"
    assert result["perplexity"] > 20
    assert result["enrichment"]["q_value"].min() < 1e-4
    assert blood.obsm["X_pathway_tokens"].shape == (blood.n_obs, 128)


def test_genes_by_attention_are_read_by_scanpy(blood):
    sf.tl.rank_genes_attention(blood, "type", n_genes=20)
    found = sc.get.rank_genes_groups_df(blood, "B cell", key="rank_genes_attention")
    assert len(found) == 20
    assert blood.uns["rank_genes_attention"]["provenance"]["weights"] == "celllm-mini"
