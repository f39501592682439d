"""Cells for a text and texts for a cell."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scfoundry as sf
from scfoundry._device import Compute

QUERY = ["monocyte", "B cell", "NK"]


@pytest.fixture
def adata(make_adata):
    return make_adata(12)


def test_cells_of_every_text_best_first(reads_texts, adata):
    before = adata.copy()
    hits = sf.tl.retrieve(adata, QUERY, k=3, model=reads_texts, device="cpu")
    assert list(hits.columns) == ["query", "rank", "obs_name", "score"]
    assert hits["query"].tolist() == np.repeat(QUERY, 3).tolist()
    assert hits["rank"].tolist() == [1, 2, 3] * 3
    assert hits.groupby("query")["score"].apply(lambda scores: scores.is_monotonic_decreasing).all()
    assert set(adata.obs) == set(before.obs)
    assert (set(adata.obsm), set(adata.uns)) == (set(before.obsm), set(before.uns))


def test_the_score_of_a_cell_is_its_cosine_with_the_text(reads_texts, adata):
    text = {"mine": "cell type: natural killer cell."}
    hits = sf.tl.retrieve(adata, text, k=12, model=reads_texts, device="cpu").set_index("obs_name")["score"]
    cosine = (
        reads_texts.get_latent_representation(adata)
        @ reads_texts.embed_texts(list(text.values()), Compute.resolve("cpu")).T
    )
    np.testing.assert_allclose(hits[adata.obs_names], cosine[:, 0], atol=1e-5)


def test_texts_of_every_cell_are_ranked_as_zero_shot_annotation_ranks_them(reads_texts, adata):
    hits = sf.tl.retrieve(adata, QUERY, find="texts", k=2, model=reads_texts, device="cpu")
    assert hits["obs_name"].tolist() == np.repeat(adata.obs_names, 2).tolist()
    sf.tl.zero_shot_annotate(adata, QUERY, model=reads_texts, device="cpu")
    first = hits[hits["rank"] == 1].set_index("obs_name")
    assert first["query"].tolist() == adata.obs["zero_shot"].tolist()
    np.testing.assert_allclose(first["score"], adata.obs["zero_shot_score"], atol=1e-6)


def test_one_text_and_one_cell(reads_texts, adata):
    assert len(sf.tl.retrieve(adata, "NK", k=1, model=reads_texts)) == 1
    assert len(sf.tl.retrieve(adata[["cell 3"]], "NK", find="texts", model=reads_texts)) == 1


def test_finding_one_text_says_that_there_is_no_choice(reads_texts, adata, logged):
    sf.tl.retrieve(adata, "NK", model=reads_texts)
    assert not any("of one text the probability is always 1" in message for message in logged)
    sf.tl.retrieve(adata, "NK", find="texts", model=reads_texts)
    assert any("of one text the probability is always 1" in message for message in logged)


def test_the_number_of_hits_comes_third(reads_texts, adata):
    assert len(sf.tl.retrieve(adata, "NK", 3, model=reads_texts)) == 3


def test_the_table_says_how_it_was_made(reads_texts, adata):
    hits = sf.tl.retrieve(adata, QUERY, 2, find="texts", model=reads_texts, batch_size=5)
    assert hits.attrs["params"] == {
        "find": "texts", "k": 2, "batch_size": 5, "precision": "auto",
        "adapt": False, "top_k": 3, "alpha": reads_texts.config.alpha, "mixture": reads_texts.config.mixture,
    }  # fmt: skip
    assert hits.attrs["provenance"]["weights"] == "untrained"
    assert "top_k" not in sf.tl.retrieve(adata, QUERY, model=reads_texts).attrs["params"]


def test_there_are_no_more_hits_than_cells_or_texts(reads_texts, adata):
    assert len(sf.tl.retrieve(adata, "NK", k=99, model=reads_texts)) == 12
    assert len(sf.tl.retrieve(adata, QUERY, find="texts", k=99, model=reads_texts)) == 36


def test_empty_cells_are_not_found(reads_texts, adata):
    adata.X[4] = 0
    adata.X.eliminate_zeros()
    for find in ("cells", "texts"):
        hits = sf.tl.retrieve(adata, QUERY, k=99, find=find, model=reads_texts)
        assert set(hits["obs_name"]) == set(adata.obs_names) - {"cell 4"}


def test_a_stored_embedding_gives_the_same_cells(reads_texts, adata, tmp_path):
    expected = sf.tl.retrieve(adata, QUERY, k=4, model=reads_texts, device="cpu")
    sf.tl.embed(adata, reads_texts, adapt=None, device="cpu")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    hits = sf.tl.retrieve(backed, QUERY, k=4, model=reads_texts, use_rep="X_langcell", device="cpu")
    pd.testing.assert_frame_equal(hits, expected, check_dtype=False)


def test_the_order_of_cells_and_queries_does_not_matter(reads_texts, adata):
    expected = sf.tl.retrieve(adata, QUERY, k=12, model=reads_texts, device="cpu")
    hits = sf.tl.retrieve(adata[::-1].copy(), QUERY[::-1], k=12, model=reads_texts, device="cpu")
    one, other = (table.set_index(["query", "obs_name"])["score"] for table in (expected, hits))
    np.testing.assert_allclose(other[one.index], one, atol=1e-5)


def test_the_length_of_a_stored_embedding_does_not_matter(reads_texts, adata):
    sf.tl.embed(adata, reads_texts, adapt=None, device="cpu")
    expected = sf.tl.retrieve(adata, QUERY, model=reads_texts, use_rep="X_langcell", device="cpu")
    adata.obsm["X_langcell"] *= np.linspace(0.1, 9, 12)[:, None]
    hits = sf.tl.retrieve(adata, QUERY, model=reads_texts, use_rep="X_langcell", device="cpu")
    pd.testing.assert_frame_equal(hits, expected)


@pytest.mark.parametrize(
    ("query", "arguments", "message"),
    [
        ([], {}, r"sf.tl.retrieve needs at least one text and got none"),
        (None, {}, r"query must be text or a list .*; got None"),
        (["NK", "NK"], {}, r"got 'NK' more than once"),
        ("NK", {"k": 0}, r"k must be at least 1; got 0"),
        ("NK", {"find": "genes"}, r"find must be one of 'cells', 'texts'; got 'genes'"),
        ("NK", {"use_rep": "X_langcell"}, r"adata.obsm has no 'X_langcell'; its keys: 'spatial'. Compute it"),
        ("NK", {"use_rep": "spatial"}, r"has 2 columns, but untrained embeds in 8"),
        ("NK", {"use_rep": "spatial", "find": "texts"}, r"serves to find cells"),
    ],
)
def test_bad_arguments_are_refused(reads_texts, adata, query, arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.tl.retrieve(adata, query, model=reads_texts, **arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_cells_without_direction_are_refused(reads_texts, adata, value):
    sf.tl.embed(adata, reads_texts, adapt=None, device="cpu")
    adata.obsm["X_langcell"][3] = value
    with pytest.raises(ValueError, match=r"1 of 12 cells have no direction in adata.obsm\['X_langcell'\]"):
        sf.tl.retrieve(adata, "NK", model=reads_texts, use_rep="X_langcell")


def test_cells_without_any_count_are_refused(reads_texts, adata):
    adata.X = adata.X * 0
    with pytest.raises(ValueError, match=r"None of the 12 cells has a count of any gene of the model"):
        sf.tl.retrieve(adata, "NK", model=reads_texts)
