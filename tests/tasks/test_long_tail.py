"""Losses for labels of few cells: linear heads, whole models, and what they are fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from cases import MODELS
from scipy import sparse

from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.matrix.cells import Cells
from scfoundry.nn.label_loss import LabelLoss
from scfoundry.nn.losses import GInf, hard_classes
from scfoundry.stats.softmax_regression import softmax_regression
from scfoundry.tasks import Annotator
from scfoundry.tasks.annotation import head_fit
from scfoundry.tasks.annotation.head_fit import fit_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

LABELS = [Label("B cell", ("cell type: B cell.",)), Label("monocyte", ("cell type: monocyte.",))]
CPU = Compute(torch.device("cpu"))


@pytest.fixture
def examples() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features of four classes that overlap, one of them ten times as large as the smallest."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(4), [60, 30, 12, 6])
    return rng.normal(size=(108, 5)) + 1.5 * np.eye(4, 5)[codes], codes


def fitted(features: Any, codes: Any, loss: LabelLoss, **how: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return fit_head(features, codes, 4, loss, np.random.default_rng(0), **{"ridge": 1.0} | how)


def test_cross_entropy_is_the_regression_as_it_was(examples):
    for found, expected in zip(
        fitted(*examples, LabelLoss()), softmax_regression(*examples, 4, ridge=1.0), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_balanced_softmax_takes_the_sizes_of_classes_out_of_a_free_bias(examples):
    # The best weights are the same, and the logs of the sizes are what the bias need not learn.
    weights, bias = softmax_regression(*examples, 4, ridge=1.0)
    balanced = fitted(*examples, LabelLoss.of("balanced_softmax"))
    np.testing.assert_allclose(balanced[0], weights, atol=1e-4)
    moved = bias - np.log(np.bincount(examples[1]))
    np.testing.assert_allclose(balanced[1] - balanced[1].mean(), moved - moved.mean(), atol=1e-4)


@pytest.mark.parametrize("hard_mining", [False, 1, "cells"])
@pytest.mark.parametrize("loss", ["focal", "balanced_softmax", GInf(sigma=0.5), GInf(prior=False, sigma=0.5)])
def test_no_small_change_makes_a_fit_better(examples, loss, hard_mining, monkeypatch):
    """At the optimum of its own noise and its own hard examples, which are held still."""
    seen: list[Any] = []

    def noted(*args: Any, **how: Any) -> Any:
        seen.append(how["loss_of_logits"])
        return softmax_regression(*args, **how)

    monkeypatch.setattr(head_fit, "softmax_regression", noted)
    features, codes = examples
    weights, bias = fitted(features, codes, LabelLoss.of(loss, hard_mining))
    _, slopes = seen[-1](features @ weights + bias)
    np.testing.assert_allclose(features.T @ slopes + weights, 0, atol=1e-3)
    np.testing.assert_allclose(slopes.sum(0), 0, atol=1e-3)


def test_mined_classes_are_those_of_the_fit_before(examples):
    features, codes = examples
    loss = LabelLoss.of("balanced_softmax", hard_mining=1)
    weights, bias = fitted(features, codes, loss)
    plain = fitted(features, codes, LabelLoss.of("balanced_softmax"))
    assert np.abs(weights - plain[0]).max() > 1e-3
    logits = torch.from_numpy(features @ weights + bias)
    assert hard_classes(logits, torch.from_numpy(codes), 1).sum(1).tolist() == [2] * len(codes)


@pytest.mark.parametrize("as_features", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", ["focal", "ginf"])
def test_features_that_outnumber_cells_are_fitted_alike_on_fewer_axes(monkeypatch, as_features, loss):
    rng = np.random.default_rng(0)
    codes = np.arange(40) % 4
    features = as_features(rng.normal(size=(40, 90)) + np.eye(4, 90)[codes])
    offset = rng.normal(size=(40, 4))
    turned = fitted(features, codes, LabelLoss.of(loss), offset=offset)
    monkeypatch.setattr(head_fit, "MOST_TURNED", 0)
    straight = fitted(features, codes, LabelLoss.of(loss), offset=offset)
    assert turned[0].shape == (90, 4)
    for found, expected in zip(turned, straight, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_noise_is_the_same_in_every_run(examples):
    loss = LabelLoss.of(GInf(sigma=1.0), "cells")
    for first, second in zip(fitted(*examples, loss), fitted(*examples, loss), strict=True):
        np.testing.assert_array_equal(first, second)
    assert np.abs(fitted(*examples, loss)[0] - fitted(*examples, LabelLoss.of("balanced_softmax"))[0]).max() > 1e-3


# ---- with every model that learns labels ---------------------------------------------------------------------------


@pytest.fixture
def unequal(make_adata: Callable[..., AnnData]) -> tuple[AnnData, NDArray[np.int64]]:
    """Cells of two types, few of the second."""
    cells = make_adata(120)
    codes = cells.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    rows = np.r_[np.flatnonzero(codes == 0), np.flatnonzero(codes == 1)[:4]]
    return cells[rows].copy(), codes[rows]


@pytest.mark.parametrize(
    ("name", "train"),
    [("small", "head"), ("cellnamer", "head"), ("cellplm", "head"), ("cellplm", "all"), ("langcell", "all")],
)
@pytest.mark.parametrize("loss", [LabelLoss.of("ginf", 1), LabelLoss.of("focal", "cells")], ids=["ginf", "focal"])
def test_every_model_learns_by_them(unequal, name, train, loss):
    adata, codes = unequal
    model = MODELS[name](adata.var_names)
    cells = Cells.of(adata, model.genes, caller="test")
    how = {"train": train, "compute": CPU} | ({"max_epochs": 1} if train == "all" else {})
    plain, learned = (
        Annotator.fit(model, cells, LABELS, codes, loss=by, **how).predict(cells, CPU) for by in (LabelLoss(), loss)
    )
    np.testing.assert_allclose(learned.sum(1), 1, atol=1e-5)
    assert np.abs(plain - learned).max() > 1e-6


@pytest.mark.parametrize("name", ["small", "cellnamer"])
def test_a_loss_that_knows_sizes_favours_the_small_label(unequal, name):
    adata, codes = unequal
    model = MODELS[name](adata.var_names)
    cells = Cells.of(adata, model.genes, caller="test")
    plain, balanced = (
        Annotator.fit(model, cells, LABELS, codes, loss=LabelLoss.of(by), compute=CPU).predict(cells, CPU)[:, 1].mean()
        for by in ("cross_entropy", "balanced_softmax")
    )
    assert balanced > plain
