"""Cells that no text fits, cells that vote in groups, and labels that the weights know nothing of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

TWO = ["B cell", "NK"]
LABELS = ["monocyte", "B cells", "NK", "mixture of my own"]


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata(12)


def annotated(adata: AnnData, texts: Any = LABELS, **arguments: Any) -> AnnData:
    return sf.tl.zero_shot_annotate(adata, texts, copy=True, device="cpu", **arguments)


def test_empty_cells_are_unknown_with_score_zero(reads_texts, adata):
    adata.X[[2, 5]] = 0
    adata.X.eliminate_zeros()
    for unknown in ("auto", None, 0.0):
        result = annotated(adata, model=reads_texts, unknown=unknown)
        assert result.obs["zero_shot"].cat.categories[-1] == "unknown"
        assert np.flatnonzero(result.obs["zero_shot"] == "unknown").tolist() == [2, 5]
        assert result.obs[["zero_shot_score", "zero_shot_fit"]].iloc[[2, 5]].eq(0).all(axis=None)
        assert result.obs["zero_shot_ontology_id"].iloc[[2, 5]].isna().all()
        assert np.isfinite(result.obsm["zero_shot_scores"]).all(axis=None)


def test_cells_below_the_threshold_are_unknown(says, make_adata):
    cells = make_adata(3)
    model = says([[0.9, 0.1], [0.45, 0.55], [0.3, 0.7]], threshold=0.6)
    assert annotated(cells, TWO, model=model).obs["zero_shot"].tolist() == ["B cell", "unknown", "NK"]
    assert annotated(cells, TWO, model=model, unknown=0.8).obs["zero_shot"].tolist() == ["B cell", "unknown", "unknown"]
    never = annotated(cells, TWO, model=model, unknown=None).obs["zero_shot"]
    assert never.tolist() == ["B cell", "NK", "NK"]
    assert never.cat.categories.tolist() == TWO


def test_a_model_may_judge_the_fit_apart_from_the_choice(says, make_adata):
    model = says([[0.9, 0.1], [0.9, 0.1]], fit=[0.2, 0.8], threshold=0.5)
    result = annotated(make_adata(2), TWO, model=model)
    assert result.obs["zero_shot"].tolist() == ["unknown", "B cell"]
    assert result.obs["zero_shot_score"].tolist() == pytest.approx([0.9, 0.9])
    assert result.obs["zero_shot_fit"].tolist() == pytest.approx([0.2, 0.8])
    result = annotated(make_adata(2), TWO, model=model, unknown=0.85)
    assert result.obs["zero_shot"].tolist() == ["unknown", "unknown"]


def test_without_a_fit_of_their_own_weights_compare_the_best_probability(says, make_adata):
    result = annotated(make_adata(2), TWO, model=says([[0.9, 0.1], [0.4, 0.6]]), unknown=0.7)
    assert result.obs["zero_shot"].tolist() == ["B cell", "unknown"]
    assert result.obs["zero_shot_fit"].tolist() == pytest.approx([0.9, 0.6])


def test_an_empty_cell_fits_nothing_whatever_the_model_says(says, make_adata):
    cells = make_adata(2)
    cells.X[0] = 0
    cells.X.eliminate_zeros()
    model = says([[0.9, 0.1], [0.9, 0.1]], fit=[0.8, 0.8])
    assert annotated(cells, TWO, model=model).obs["zero_shot_fit"].tolist() == pytest.approx([0, 0.8])


def test_the_fit_of_a_group_decides_for_all_its_cells(says, make_adata):
    cells = make_adata(3)
    cells.obs["cluster"] = ["a", "a", "b"]
    model = says(np.full((3, 2), 0.5), fit=[0.1, 0.5, 0.2])
    result = annotated(cells, TWO, model=model, groupby="cluster", unknown=0.25)
    assert result.obs["zero_shot_fit"].tolist() == pytest.approx([0.3, 0.3, 0.2])
    assert (result.obs["zero_shot"] == "unknown").tolist() == [False, False, True]


@pytest.mark.parametrize(("unknown", "times"), [("auto", 1), (None, 0), (0.3, 0)])
def test_weights_without_a_threshold_warn_once(reads_texts, adata, caplog, unknown, times):
    annotated(adata, model=reads_texts, unknown=unknown)
    warned = [r.message for r in caplog.records if r.levelname == "WARNING" and "carry no threshold" in r.message]
    assert len(warned) == times


def test_groups_decide_by_the_mean_of_their_cells(says, make_adata):
    cells = make_adata(5)
    cells.obs["cluster"] = pd.Categorical(["a", "a", "a", None, None])
    model = says([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0], [0.7, 0.3], [0.2, 0.8]])
    result = annotated(cells, TWO, model=model, groupby="cluster")
    assert result.obs["zero_shot"].tolist() == ["NK", "NK", "NK", "B cell", "NK"]
    assert result.obs["zero_shot_score"].tolist() == pytest.approx([0.6, 0.6, 0.6, 0.7, 0.8])
    np.testing.assert_array_equal(result.obsm["zero_shot_scores"], model.scores.probabilities)


def test_empty_cells_have_no_vote(says, make_adata):
    cells = make_adata(3)
    cells.X[0] = 0
    cells.X.eliminate_zeros()
    cells.obs["cluster"] = "a"
    result = annotated(cells, TWO, model=says([[1, 0], [0.4, 0.6], [0.4, 0.6]]), groupby="cluster")
    assert result.obs["zero_shot"].tolist() == ["unknown", "NK", "NK"]


def test_leiden_over_clusters_the_embedding_and_leaves_no_trace(reads_texts, make_adata):
    cells = make_adata(60)
    before = set(cells.obs), set(cells.obsm), set(cells.obsp), set(cells.uns)
    result = annotated(cells, model=reads_texts, groupby="leiden")
    assert result.obs["zero_shot_score"].nunique() < 60
    assert "leiden" not in result.obs
    assert (set(cells.obs), set(cells.obsm), set(cells.obsp), set(cells.uns)) == before
    cells.obs["leiden"] = "all one"
    assert annotated(cells, model=reads_texts, groupby="leiden").obs["zero_shot_score"].nunique() == 1


def test_the_order_of_cells_does_not_matter_to_clusters(says, make_adata):
    cells = make_adata(80)
    place = pd.Series(np.arange(80), cells.obs_names)
    latent, first = np.random.default_rng(0).normal(size=(80, 4)), np.random.default_rng(1).random(80)
    probabilities = np.column_stack([first, 1 - first])
    scores = {}
    for name, order in {"as given": place.to_numpy(), "turned": np.random.default_rng(2).permutation(80)}.items():
        model = says(probabilities[order])
        model.latent = latent[order].astype(np.float32)
        scores[name] = annotated(cells[order].copy(), TWO, model=model, groupby="leiden").obs["zero_shot_score"]
    np.testing.assert_allclose(scores["turned"][cells.obs_names], scores["as given"], atol=1e-6)


def test_labels_that_the_weights_know_nothing_of_are_named(says, adata, logged):
    model = says(np.full((12, 2), 0.5))
    model.without_knowledge = ("NK",)
    annotated(adata, TWO, model=model)
    assert any("know neither cells nor markers of 'NK'" in message for message in logged)


def test_markers_reach_the_model_as_ids_of_its_genes(says, adata, logged):
    symbols = sf.datasets.human_genes().loc[adata.var_names[:2], "symbol"].tolist()
    model = says(np.full((12, 2), 0.5))
    annotated(adata, TWO, model=model, markers={"NK": [*symbols, "NO_SUCH_GENE"]})
    assert [set(label.markers) for label in model.labels] == [set(), set(adata.var_names[:2])]
    assert any("1 of 3 markers of 'NK'" in message for message in logged)
