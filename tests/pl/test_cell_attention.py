"""Pictures of attention: they follow the result, and say what is missing."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy import sparse

import scfoundry as sf

mpl.use("Agg")


@pytest.fixture
def attended(make_adata):
    """Cells on a line, of which every one attends most to the first and second."""
    adata = make_adata(6)
    adata.obsm["spatial"] = np.c_[np.arange(6), np.zeros(6)] * 10.0
    weights = np.tile([0.4, 0.3, 0.1, 0, 0, 0], (6, 1)).astype(np.float32)
    adata.obsp["cell_attention"] = sparse.csr_matrix(weights)
    adata.uns["cell_attention"] = {"params": {"group_by": "cell_type", "spatial_key": "spatial"}}
    yield adata
    plt.close("all")


@pytest.fixture
def with_groups(make_adata):
    model = sf.model.CellPLM(genes=make_adata().var_names, n_hidden=16, n_layers=1, n_latent=4)
    adata = make_adata(20)
    sf.tl.cell_attention(adata, model=model, group_by="cell_type", batch_key="batch", device="cpu")
    yield adata
    plt.close("all")


def test_arrows_lead_to_the_side_where_attention_goes(attended):
    axes = sf.pl.cell_attention(attended)
    (arrows,) = (c for c in axes.collections if isinstance(c, mpl.quiver.Quiver))
    # The weights beyond the least kept are 0.3 and 0.2, their centre 4; the middle of the cells is 25.
    assert (arrows.U < 0).all()
    np.testing.assert_allclose(arrows.V, 0, atol=1e-9)
    np.testing.assert_allclose(arrows.U, arrows.U[0])
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(attended.obs["cell_type"])


def test_cells_take_the_colours_that_scanpy_gave_them(attended):
    attended.uns["cell_type_colors"] = ["#ff0000", "#00ff00"]
    axes = sf.pl.cell_attention(attended)
    drawn = {tuple(colour[:3]) for c in axes.collections[:2] for colour in c.get_facecolor()}
    assert drawn == {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)}


def test_streams_and_given_axes(attended):
    attended.obsm["spatial"] = np.random.default_rng(0).uniform(0, 10, (6, 2))
    _, ax = plt.subplots()
    assert sf.pl.cell_attention(attended, kind="stream", color=None, ax=ax) is ax
    assert len(ax.patches) > 0


def test_groups_are_drawn_where_there_are_no_coordinates(with_groups):
    axes = sf.pl.cell_attention(with_groups)
    drawn = axes.images[0].get_array()
    groups = with_groups.uns["cell_attention"]["groups"]
    np.testing.assert_allclose(drawn, groups["enrichment"].to_numpy().reshape(2, 2))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["B cell", "monocyte"]


def test_showing_returns_nothing(with_groups, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert sf.pl.cell_attention(with_groups, show=True) is None
    assert shown


def test_what_is_missing_is_said(attended, with_groups):
    with pytest.raises(ValueError, match=r"no result 'other' of sf.tl.cell_attention. Run it first"):
        sf.pl.cell_attention(attended, "other")
    with pytest.raises(ValueError, match=r"This result has no groups. Compute them"):
        sf.pl.cell_attention(attended, kind="groups")
    with pytest.raises(ValueError, match=r"several contexts cannot share a picture; none was given.*'batch 0'"):
        sf.pl.cell_attention(with_groups, kind="arrows")
    with pytest.raises(ValueError, match=r"got 'batch 9'"):
        sf.pl.cell_attention(with_groups, kind="arrows", context="batch 9")
    with pytest.raises(ValueError, match=r"no column 'colour'"):
        sf.pl.cell_attention(attended, color="colour")
    del attended.obsm["spatial"]
    with pytest.raises(ValueError, match=r"obsm has no 'spatial', so arrows have nowhere to lead"):
        sf.pl.cell_attention(attended)
