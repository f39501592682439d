from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.spatial.distance import cdist

import scfoundry as sf


@pytest.fixture
def blobs() -> AnnData:
    """Four cell types of 40 cells, far apart in X_far and overlapping in X_near."""
    rng = np.random.default_rng(0)
    types = np.repeat(np.arange(4), 40)
    noise = rng.normal(size=(160, 6)).astype(np.float32)
    centres = np.eye(4, 6, dtype=np.float32)[types]
    return AnnData(
        obs=pd.DataFrame({"cell_type": pd.Categorical(np.array(["B", "T", "NK", "DC"])[types])}, map(str, range(160))),
        obsm={"X_far": noise + 50 * centres, "X_near": noise + 2.5 * centres},
    )


def score(adata: AnnData, use_rep: str = "X_near", **options: object) -> pd.Series:
    return sf.metrics.clustering(adata, use_rep=use_rep, labels_key="cell_type", **options)


def test_separate_cell_types_score_one(blobs: AnnData) -> None:
    scores = score(blobs, "X_far")
    np.testing.assert_allclose(scores[["ari", "nmi", "knn_accuracy"]], 1)


def test_overlap_lowers_every_score_and_the_best_resolution_is_reported(blobs: AnnData) -> None:
    scores = score(blobs)
    assert (scores[["ari", "nmi", "knn_accuracy"]] < 1).all()
    for name in ("ari", "nmi"):
        assert scores[name] >= scores[f"{name}_at_1"]
        alone = score(blobs, resolutions=[scores[f"{name}_resolution"]])
        assert alone[name] == pytest.approx(scores[name])


def test_resolution_one_is_reported_even_if_not_among_the_choices(blobs: AnnData) -> None:
    scores = score(blobs, resolutions=[0.01])
    assert (scores["ari"], scores["ari_resolution"]) == (0, 0.01)
    assert scores["ari_at_1"] > 0


def test_knn_accuracy_is_a_vote_of_the_others_won_by_the_nearest_on_ties(blobs: AnnData) -> None:
    labels, points = np.asarray(blobs.obs["cell_type"]), blobs.obsm["X_near"].astype(float)
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    correct = []
    for label, row in zip(labels, distances, strict=True):
        # Counter lists equal counts in order of first appearance, that is by distance.
        correct.append(Counter(labels[np.argsort(row)[:4]]).most_common(1)[0][0] == label)
    assert score(blobs, n_neighbors=4, resolutions=[1])["knn_accuracy"] == pytest.approx(np.mean(correct))


def test_the_cell_itself_has_no_vote() -> None:
    pairs = np.repeat([0.0, 100.0, 200.0, 300.0], 2) + np.tile([0, 1.0], 4)
    adata = AnnData(obs=pd.DataFrame({"cell_type": ["a", "b"] * 4}, map(str, range(8))), obsm={"X": pairs[:, None]})
    assert score(adata, "X", n_neighbors=2, resolutions=[1])["knn_accuracy"] == 0


def test_cells_without_a_label_take_no_part(blobs: AnnData) -> None:
    everything = blobs.copy()
    everything.obs.loc[everything.obs_names[::3], "cell_type"] = np.nan
    labelled = everything[everything.obs["cell_type"].notna()]
    pd.testing.assert_series_equal(score(everything), score(labelled))


def test_the_object_is_only_read(blobs: AnnData) -> None:
    before = blobs.copy()
    score(blobs, resolutions=[1])
    assert str(blobs) == str(before)
    pd.testing.assert_frame_equal(blobs.obs, before.obs)
    assert not blobs.uns
    assert not blobs.obsp


def test_a_seed_gives_the_same_scores_twice(blobs: AnnData) -> None:
    pd.testing.assert_series_equal(score(blobs, rng=3), score(blobs, rng=np.int64(3)))
    first, second = (score(blobs, rng=np.random.default_rng(5)) for _ in range(2))
    pd.testing.assert_series_equal(first, second)


def test_bad_input_is_named_with_its_fix(blobs: AnnData) -> None:
    with pytest.raises(ValueError, match=r"adata.obsm has no 'X_pca'; its keys: 'X_far', 'X_near'.*sf.tl.embed"):
        score(blobs, "X_pca")
    with pytest.raises(ValueError, match=r"adata.obs has no 'louvain'; its keys: 'cell_type'"):
        sf.metrics.clustering(blobs, use_rep="X_far", labels_key="louvain")
    with pytest.raises(ValueError, match="holds 1 different labels; at least 2 are needed"):
        score(blobs[:40])
    with pytest.raises(ValueError, match=r"10 cells have a label, too few for n_neighbors=15.*n_neighbors=9"):
        score(blobs[35:45])
    with pytest.raises(ValueError, match="resolutions must be positive numbers"):
        score(blobs, resolutions=[])
    blobs.obsm["X_far"][:3] = np.nan
    with pytest.raises(ValueError, match=r"3 cells have missing or infinite values in adata.obsm\['X_far'\]"):
        score(blobs, "X_far")
