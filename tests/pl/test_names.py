"""Plots of names, their probabilities, and of trainings."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import image

import scfoundry as sf

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def named(make_adata):
    """Ten cells: true labels, given ones with their probabilities, and one cell without a true label."""
    adata = make_adata(10)
    adata.obs["truth"] = pd.Categorical(["B", "B", "B", "B", "T", "T", "T", "stem", "stem", None])
    adata.obs["zero_shot"] = pd.Categorical(["B", "B", "B", "T", "T", "T", "plasma", "unknown", "T", "B"])
    sure = [0.9, 0.9, 0.9, 0.9, 0.55, 0.55, 0.55, 0.3, 0.55, 0.7]
    adata.obs["zero_shot_score"] = np.array(sure, dtype=np.float32)
    rest = (1 - np.array(sure)) / 2
    scores = {"B": sure, "T": rest, "plasma": rest}
    adata.obsm["zero_shot_scores"] = pd.DataFrame(scores, index=adata.obs_names)
    return adata


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def test_confusion_counts_the_given_labels_of_every_true_one(named):
    ax = sf.pl.confusion(named, "truth", "zero_shot")
    assert labels(ax.yaxis) == ["B  (4)", "T  (3)", "stem  (2)"]
    assert labels(ax.xaxis) == ["B", "T", "plasma", "unknown"]
    expected = [[3 / 4, 1 / 4, 0, 0], [0, 2 / 3, 1 / 3, 0], [0, 1 / 2, 0, 1 / 2]]
    np.testing.assert_allclose(ax.images[0].get_array(), expected)
    assert [text.get_text() for text in ax.texts] == [".75", ".25", ".67", ".33", ".50", ".50"]


def test_label_scores_are_means_of_groups_along_the_diagonal(named):
    ax = sf.pl.label_scores(named, "truth")
    assert labels(ax.xaxis) == ["B", "T", "plasma"]
    assert labels(ax.yaxis) == ["B  (4)", "T  (3)", "stem  (2)"]
    np.testing.assert_allclose(ax.images[0].get_array()[:, 0], [0.9, 0.55, 0.425])
    with pytest.raises(ValueError, match="no table 'mine_scores'"):
        sf.pl.label_scores(named, "truth", "mine")


def test_calibration_shows_accuracy_by_probability(named):
    ax = sf.pl.calibration(named, "truth", n_bins=10)
    points = ax.collections[0].get_offsets()
    # 0.55: two of four are right; 0.9: three of four. The unknown cell and that without a label do not count.
    np.testing.assert_allclose(points, [[0.55, 0.5], [0.9, 0.75]], atol=1e-6)
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, [0] * 5 + [0.5, 0, 0, 0.5, 0])
    assert "calibration error 0.100, 8 cells" in ax.get_title()
    with pytest.raises(ValueError, match="no column 'other'"):
        sf.pl.calibration(named, "other")


def test_history_draws_losses_of_training_and_validation():
    epochs = pd.Index(range(3), name="epoch")
    values = {
        name: pd.DataFrame({name: numbers}, index=epochs)
        for name, numbers in {"loss_train": [3, 2, 1], "loss_validation": [4, 3, 3], "accuracy": [0, 1, 1]}.items()
    }
    ax = sf.pl.history(values)
    assert [line.get_label() for line in ax.lines] == ["loss_train", "loss_validation"]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert ax.lines[1].get_ydata().tolist() == [4, 3, 3]
    assert sf.pl.history(values, "accuracy").get_ylabel() == "value"
    with pytest.raises(ValueError, match="no 'f1'; it has 'loss_train'"):
        sf.pl.history(values, ["f1"])
    with pytest.raises(ValueError, match=r"Train first: model.train\(\)"):
        sf.pl.history({})


def test_a_trained_model_has_a_history(make_adata):
    adata = make_adata()
    sf.model.CellPLM.setup_anndata(adata)
    model = sf.model.CellPLM(adata, n_hidden=16, n_latent=4)
    with pytest.raises(ValueError, match="Train first"):
        sf.pl.history(model)
    model.train(max_epochs=2, accelerator="cpu")
    ax = sf.pl.history(model)
    assert ax.lines[0].get_xdata().tolist() == [0, 1]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), model.history["loss_train"].iloc[:, 0].astype(float))


def test_manners_are_those_of_scanpy(named, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    for draw, words in {
        sf.pl.confusion: ("truth", "zero_shot"),
        sf.pl.label_scores: ("truth",),
        sf.pl.calibration: ("truth",),
    }.items():
        _, ax = plt.subplots()
        assert draw(named, *words, ax=ax) is ax
        assert draw(named, *words, show=True, save=tmp_path / "drawn.png") is None
        assert image.imread(tmp_path / "drawn.png").ndim == 3
        (tmp_path / "drawn.png").unlink()
    assert len(shown) == 3


@pytest.fixture
def placed(named):
    """The same, with coordinates: the cells named B at 0, 1, 2 and 9, those named T from 20 on."""
    x = np.array([0, 1, 2, 20, 21, 22, 40, 50, 23, 9])
    named.obsm["X_umap"] = np.column_stack([x, np.zeros(10), x])
    named.obsm["zero_shot_scores"]["stem"] = 0.01 * x  # which names no cell
    return named


def test_texts_stand_among_the_cells_they_name(placed):
    ax = sf.pl.cells_and_texts(placed)
    places = {text.get_text(): text.xy[0] for text in ax.texts}
    assert places["B"] in (1, 2)
    assert places["T"] in (21, 22)
    assert places["plasma"] == 40
    assert "(stem)" in places
    assert "stem" not in places
    assert sum(len(points.get_offsets()) for points in ax.collections[1:]) == 9, "all but the unknown cell have colours"
    with pytest.raises(ValueError, match=r"no coordinates 'tsne'.*'X_umap'"):
        sf.pl.cells_and_texts(placed, basis="tsne")


def test_retrieval_draws_the_cells_that_were_found(placed):
    names = placed.obs_names
    hits = pd.DataFrame(
        {"query": ["kills", "kills", "eats"], "obs_name": names[[3, 0, 6]], "score": [0.9, 0.1, 0.5], "rank": [1, 2, 1]}
    )
    axes = sf.pl.retrieval(placed, hits)
    assert [ax.get_title() for ax in axes] == ["kills (2 cells)", "eats (1 cells)"]
    found = axes[0].collections[-1]
    assert found.get_offsets()[:, 0].tolist() == [0, 20], "the best one on top"
    assert found.get_array().tolist() == [0.1, 0.9]
    with pytest.raises(ValueError, match="axes are 1, but hits are of 2 texts"):
        sf.pl.retrieval(placed, hits, axes=axes[:1])
    with pytest.raises(ValueError, match="1 cells that adata lacks"):
        sf.pl.retrieval(placed[1:], hits)
