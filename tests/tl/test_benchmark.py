"""Embeddings of models and of simple peers, scored on data whose answer is planted."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING, Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from cases import MODELS
from scipy import sparse

import scfoundry as sf
from scfoundry.tasks.benchmarking import scib
from scfoundry.tasks.benchmarking.baselines import harmony, scvi

if TYPE_CHECKING:
    from anndata import AnnData

KEYS: dict[str, Any] = {"label_key": "type", "batch_key": "batch"}
GENES = [f"ENSG{i:011d}" for i in range(60)]


@pytest.fixture(scope="module")
def adata() -> AnnData:
    """150 cells of three types, each with its own twenty genes, in two batches of different depth."""
    rng = np.random.default_rng(0)
    types, batches = np.arange(150) % 3, np.arange(150) // 3 % 2
    rates = np.where(np.arange(60) // 20 == types[:, None], 6.0, 0.5) * (1 + batches[:, None])
    obs = pd.DataFrame({"type": np.array(["a", "b", "c"])[types], "batch": np.array(["one", "two"])[batches]})
    obs.index = [f"cell {i}" for i in range(150)]
    cells = ad.AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs)
    cells.var_names = GENES
    cells.obsm["noise"] = rng.normal(size=(150, 5)).astype(np.float32)
    return cells


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Scores that cost nothing, by the variance between types, in place of scib-metrics; what was asked."""
    asked: list[tuple[Any, ...]] = []

    def scores(embedding: Any, labels: Any, batches: Any, unintegrated: Any, seeds: Any) -> dict[str, list[float]]:
        asked.append((embedding, labels, batches, unintegrated, seeds))
        means = np.stack([embedding[labels == label].mean(0) for label in np.unique(labels)])
        share = float(means.var(0).sum() / embedding.var(0).sum())
        return {"bio conservation": [share], "KMeans ARI": [share]}

    monkeypatch.setattr(scib, "scib_scores", scores)
    monkeypatch.setattr(scib, "require_scib", lambda **_: "0")
    return asked


@pytest.mark.usefixtures("quick")
def test_models_and_peers_from_best_to_worst(adata: AnnData) -> None:
    cells, models = adata.copy(), [MODELS["cellplm"](GENES), MODELS["celler"](GENES)]
    found = sf.tl.benchmark(cells, models, **KEYS, baselines=("pca",), use_reps=["noise"], adapt=None)
    assert set(found.index) == {"PCA", "noise", "untrained (cellplm)", "untrained (celler)"}
    assert found.index[-1] == "noise"
    assert found["bio conservation"].is_monotonic_decreasing
    assert found.loc["PCA", "bio conservation"] > 0.5 > 0.1 > found.loc["noise", "bio conservation"]
    pd.testing.assert_frame_equal(cells.uns["benchmark"]["scores"], found)
    assert cells.uns["benchmark"]["params"]["label_key"] == "type"


def test_only_labelled_cells_are_scored_in_the_order_of_the_data(adata: AnnData, quick: list[Any]) -> None:
    cells = adata.copy()
    cells.obs.loc[cells.obs_names[:30], "type"] = None
    sf.tl.benchmark(cells, MODELS["small"](GENES), **KEYS, baselines=(), adapt=None)
    ((embedding, labels, batches, unintegrated, _),) = quick
    expected = sf.tl.embed(cells, MODELS["small"](GENES), adapt=None, copy=True).obsm["X_small"]
    np.testing.assert_array_equal(embedding, expected[30:])
    assert labels.tolist() == cells.obs["type"].tolist()[30:]
    assert batches.tolist() == cells.obs["batch"].tolist()[30:]
    assert len(unintegrated) == 120


@pytest.mark.usefixtures("quick")
def test_random_weights_stand_beside_every_model(adata: AnnData) -> None:
    weights = sf.model.Celler(genes=GENES, n_hidden=16, n_layers=1, n_heads=2, n_intermediate=16)
    found = sf.tl.benchmark(adata.copy(), weights, **KEYS, baselines=["random"], adapt=None)
    assert sorted(found.index) == ["untrained", "untrained, random weights"]


def test_scvi_is_the_same_for_a_seed_and_leaves_random_states_alone(adata: AnnData) -> None:
    def states() -> tuple[Any, ...]:
        return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads()  # noqa: NPY002

    before = states()
    first, second = (scvi(adata, "batch", 0, max_epochs=2) for _ in range(2))
    assert states() == before
    np.testing.assert_array_equal(first, second)
    assert first.shape == (150, 10)


def test_harmony_takes_out_batches() -> None:
    pytest.importorskip("harmonypy")
    rng, batches = np.random.default_rng(0), np.repeat(["one", "two"], 100)
    points = rng.normal(size=(200, 5)).astype(np.float32)
    points[100:, 0] += 5
    corrected = harmony(points, batches, 0)
    assert corrected.shape == points.shape
    before, after = (abs(x[100:, 0].mean() - x[:100, 0].mean()) for x in (points, corrected))
    assert after < 0.9 * before


def test_scores_are_those_of_scib_metrics(adata: AnnData) -> None:
    pytest.importorskip("scib_metrics")
    cells = adata.copy()
    cells.obsm["types"] = np.eye(3, dtype=np.float32)[adata.obs["type"].astype("category").cat.codes]
    cells.obsm["types"] += np.random.default_rng(0).normal(scale=0.01, size=(150, 3)).astype(np.float32)
    found = sf.tl.benchmark(cells, MODELS["small"](GENES), **KEYS, baselines=(), use_reps=["types", "noise"])
    assert found.index[0] == "types"
    assert found.loc["types", "KMeans ARI"] == pytest.approx(1)
    assert found.loc["types", "total"] == pytest.approx(
        0.6 * found.loc["types", "bio conservation"] + 0.4 * found.loc["types", "batch correction"]
    )
    assert ((found.drop(columns="seconds") >= -0.1) & (found.drop(columns="seconds") <= 1.0001)).all(axis=None)


def test_the_root_logger_is_left_without_handlers(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scib_metrics")
    monkeypatch.setattr(logging.root, "handlers", [])
    sf.tl.benchmark(adata.copy(), MODELS["small"](GENES), **KEYS | {"baselines": ["pca"]})
    assert logging.root.handlers == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_key": "kind"}, "no column 'kind'"),
        ({"batch_key": "donor"}, "no column 'donor'"),
        (
            {"baselines": ["umap"]},
            r"baselines must be a list \(of each: one of 'pca', 'harmony', 'scvi', 'random'\); got \['umap'\]",
        ),
        ({"use_reps": ["X_umap"]}, "no 'X_umap'; its keys: 'noise'"),
        ({"label_key": "few"}, r"12 cells of 2 types are labelled"),
        ({"models": []}, r'no models to score. Name some: models=\["cellplm"\]'),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(adata: AnnData, change: dict[str, Any], message: str) -> None:
    cells = adata.copy()
    cells.obs["few"] = [*"ab" * 6, *[None] * 138]
    with pytest.raises(ValueError, match=message):
        sf.tl.benchmark(cells, **{"models": MODELS["small"](GENES)} | KEYS | {"baselines": ["pca"]} | change)
    assert "benchmark" not in cells.uns


def test_a_missing_package_is_named(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(scib, "version", missing)
    with pytest.raises(ImportError, match=r'pip install "scfoundry-models\[scib\]"'):
        sf.tl.benchmark(adata.copy(), MODELS["small"](GENES), **KEYS)


def test_the_plot_shows_every_score() -> None:
    scores = pd.DataFrame(
        {"bio conservation": [0.7, 0.5], "total": [0.6, 0.4], "KMeans ARI": [0.8, 0.1], "kBET": [0.2, 0.2]},
        index=["ours", "PCA"],
    )
    axes = sf.pl.benchmark(scores)
    shown = [text.get_text() for text in axes.texts]
    for value in scores.to_numpy().ravel():
        assert f"{value:.2f}" in shown
    assert {"ours", "PCA", "aggregate", "bio conservation", "batch correction"} <= set(shown)
    plt.close(axes.figure)
    with pytest.raises(ValueError, match=r"Run sf\.tl\.benchmark"):
        sf.pl.benchmark(ad.AnnData(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="The table has none of the scores"):
        sf.pl.benchmark(scores.rename(columns=str.upper))
