"""LangCell's scores of integration, from planted embeddings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfoundry as sf

KEYS = {"use_rep": "X", "labels_key": "type", "batch_key": "batch"}


def planted(type_distance: float, batch_distance: float) -> AnnData:
    """120 cells of three types in two batches, types along one axis and batches along another."""
    rng = np.random.default_rng(0)
    types, batches = np.arange(120) % 3, np.arange(120) // 3 % 2
    points = rng.normal(size=(120, 3))
    points[:, 0] += type_distance * types
    points[:, 1] += batch_distance * batches
    obs = pd.DataFrame({"type": np.array(["a", "b", "c"])[types], "batch": np.array(["one", "two"])[batches]})
    obs.index = obs.index.astype(str)
    return AnnData(obsm={"X": points}, obs=obs)


def test_types_apart_and_batches_together() -> None:
    scores = sf.metrics.integration(planted(20, 0), **KEYS)
    assert scores["ari"] == scores["nmi"] == 1
    assert scores["asw_batch"] > 0.95
    assert scores["s_final"] > 0.95


def test_the_sum_is_that_of_the_paper() -> None:
    scores = sf.metrics.integration(planted(4, 3), **KEYS)
    assert scores["avg_bio"] == pytest.approx(scores[["ari", "nmi", "asw_cell"]].mean())
    assert scores["s_final"] == pytest.approx(0.6 * scores["avg_bio"] + 0.4 * scores["asw_batch"])


def test_batches_apart_cost_the_score_of_batches() -> None:
    together, apart = (sf.metrics.integration(planted(4, d), **KEYS) for d in (0, 30))
    assert apart["asw_batch"] < 0.3 < 0.9 < together["asw_batch"]


def test_one_silhouette_over_all_is_blind_to_batches_within_types_far_apart() -> None:
    """What sets the paper's score apart from scIB's, which averages within types."""
    assert sf.metrics.integration(planted(1000, 10), **KEYS)["asw_batch"] > 0.9


def test_cells_without_a_type_take_no_part() -> None:
    adata = planted(4, 1)
    more = AnnData(
        obsm={"X": np.vstack([adata.obsm["X"], np.full((5, 3), 99.0)])},
        obs=pd.DataFrame({"type": [*adata.obs["type"], *[None] * 5], "batch": [*adata.obs["batch"], *["three"] * 5]}),
    )
    pd.testing.assert_series_equal(sf.metrics.integration(more, **KEYS), sf.metrics.integration(adata, **KEYS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_key": "donor"}, "no 'donor'; its columns: 'type', 'batch'"),
        ({"batch_key": "same"}, r"holds one batch.*sf\.metrics\.clustering\(adata, use_rep='X', labels_key='type'\)"),
        ({"use_rep": "X_cellplm"}, r"sf\.tl\.embed\(adata\)"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, str], message: str) -> None:
    adata = planted(4, 1)
    if change.get("batch_key") == "same":
        adata.obs["same"] = "one"
    with pytest.raises(ValueError, match=message):
        sf.metrics.integration(adata, **KEYS | change)
