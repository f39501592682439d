from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfoundry as sf

mpl.use("Agg")

TRUTH = ["T"] * 6 + ["B"] * 3 + ["NK"]


@pytest.fixture
def adata() -> AnnData:
    """Two predictions of three types; one type was learned that no cell is of."""
    obs = {
        "cell_type": pd.Categorical(TRUTH),
        "annotation": pd.Categorical(["T"] * 6 + ["B"] * 2 + ["T"] * 2),
        "ginf": pd.Categorical(["T"] * 5 + ["NK"] + ["B"] * 3 + ["NK"]),
    }
    adata = AnnData(np.ones((10, 2), dtype=np.float32), obs=pd.DataFrame(obs, index=[f"cell {i}" for i in range(10)]))
    n_cells = pd.DataFrame({"n_cells": [30, 2, 500, 9]}, index=["B", "NK", "T", "mast"])
    adata.uns["annotation"] = {"reference": n_cells}
    return adata


def drawn(ax: mpl.axes.Axes) -> dict[str, np.ndarray]:
    """F1 of every prediction, by its name in the legend."""
    return {line.get_label(): line.get_xdata() for line in ax.lines if not line.get_label().startswith("_")}


def test_labels_stand_by_size_with_the_scores_of_every_prediction(adata: AnnData) -> None:
    ax = sf.pl.long_tail(adata, "cell_type", {"plain": "annotation", "GInf": "ginf"})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["T  (500)", "B  (30)", "NK  (2)"]
    scores = {
        name: sf.metrics.annotation_by_class(TRUTH, adata.obs[key])["f1"]
        for name, key in {"plain": "annotation", "GInf": "ginf"}.items()
    }
    found = drawn(ax)
    for name, f1 in scores.items():
        np.testing.assert_allclose(found[f"{name}, mean {f1.mean():.2f}"], f1[["T", "B", "NK"]])
    assert found["plain, mean 0.55"][2] == 0 < found["GInf, mean 0.86"][2]
    behind = next(axes for axes in ax.figure.axes if axes is not ax)
    assert [bar.get_width() for bar in behind.patches] == [500, 30, 2]
    assert behind.get_xscale() == "log"


def test_sizes_can_be_given(adata: AnnData) -> None:
    del adata.uns["annotation"]
    with pytest.raises(ValueError, match="n_cells="):
        sf.pl.long_tail(adata, "cell_type")
    ax = sf.pl.long_tail(adata, "cell_type", n_cells={"NK": 7, "B": 1})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["NK  (7)", "B  (1)"]


def test_it_draws_where_it_is_told_to(adata: AnnData) -> None:
    ax = mpl.figure.Figure().subplots()
    assert sf.pl.long_tail(adata, "cell_type", ax=ax) is ax


def test_what_is_missing_is_named(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="no column 'balanced'"):
        sf.pl.long_tail(adata, "cell_type", ["annotation", "balanced"])
    with pytest.raises(ValueError, match="None of the labels that were learned"):
        sf.pl.long_tail(adata, "cell_type", n_cells={"mast": 4})
