"""Pictures of attention: they follow the result, and say what is missing."""

from __future__ import annotations

import tracemalloc

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from mudata import MuData
from scipy import sparse

import scfoundry as sf
from scfoundry.pl._cell_attention import _stream

mpl.use("Agg")


@pytest.fixture
def attended(make_adata):
    """Cells on a line, of which every one attends most to the first and second."""
    adata = make_adata(6)
    adata.obsm["spatial"] = np.c_[np.arange(6), np.zeros(6)] * 10.0
    weights = np.tile([0.4, 0.3, 0.1, 0, 0, 0], (6, 1)).astype(np.float32)
    adata.obsp["cell_attention"] = sparse.csr_matrix(weights)
    adata.uns["cell_attention"] = {"params": {"groupby": "cell_type", "spatial_key": "spatial"}}
    yield adata
    plt.close("all")


@pytest.fixture
def with_groups(make_adata):
    model = sf.model.CellPLM(genes=make_adata().var_names, n_hidden=16, n_layers=1, n_latent=4)
    adata = make_adata(20)
    sf.tl.cell_attention(adata, model=model, groupby="cell_type", batch_key="batch", device="cpu")
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


def test_streams_follow_the_local_mean_in_memory_that_grows_with_the_cells_alone(monkeypatch):
    xy = np.random.default_rng(0).uniform(0, 10, (4000, 2))
    drawn = {}
    _, ax = plt.subplots()
    monkeypatch.setattr(ax, "streamplot", lambda xs, ys, u, v, **_: drawn.update(xs=xs, ys=ys, u=u, v=v))
    tracemalloc.start()
    # Arrows turn around the middle.
    _stream(xy, (xy - 5) @ np.array([[0.0, 1.0], [-1.0, 0.0]]), ax)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    there = np.isfinite(drawn["u"])
    assert there.mean() > 0.95
    x, y = np.meshgrid(drawn["xs"], drawn["ys"])
    inner = there & (np.abs(x - 5) < 3) & (np.abs(y - 5) < 3)
    np.testing.assert_allclose(drawn["u"][inner], (5 - y)[inner], atol=0.3)
    np.testing.assert_allclose(drawn["v"][inner], (x - 5)[inner], atol=0.3)
    assert peak < 1600 * 4000 * 8 / 10


def test_numbers_get_a_scale_and_numbered_groups_a_legend(attended):
    attended.obs["n_counts"] = np.arange(6.0)
    axes = sf.pl.cell_attention(attended, color="n_counts", palette="magma")
    assert axes.get_legend() is None
    assert axes.figure.axes[1].get_ylabel() == "n_counts"
    assert axes.collections[0].get_cmap().name == "magma"
    attended.obs["cluster"] = [0, 0, 1, 1, 2, 2]
    attended.uns["cell_attention"]["params"]["groupby"] = "cluster"
    legend = sf.pl.cell_attention(attended, palette="viridis").get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]


def test_cells_without_kept_weights_get_no_arrow(attended, logged):
    weights = attended.obsp["cell_attention"].toarray()
    weights[5] = 0
    weights[4, 1:] = 0
    attended.obsp["cell_attention"] = sparse.csr_matrix(weights)
    axes = sf.pl.cell_attention(attended)
    (arrows,) = (c for c in axes.collections if isinstance(c, mpl.quiver.Quiver))
    assert (arrows.U[:4] < 0).all()
    np.testing.assert_array_equal(arrows.U[4:], 0)
    assert any("2 of 6 cells keep fewer than two weights and get no arrow" in message for message in logged)


def test_a_part_of_the_cells_may_be_drawn_as_long_as_it_holds_weights(attended, logged):
    attended.uns["cell_attention"]["params"]["k"] = 3
    sf.pl.cell_attention(attended)
    sf.pl.cell_attention(attended[:3].copy())
    assert not logged
    sf.pl.cell_attention(attended[[0, 1, 3, 4]].copy())
    assert any("4 cells have lost a part of their kept weights" in message for message in logged)
    # All weights go to cells that are left out.
    with pytest.raises(ValueError, match=r"No cell to draw has two kept weights.*sf.tl.cell_attention"):
        sf.pl.cell_attention(attended[3:].copy())


def test_one_weight_per_cell_gives_no_direction(make_adata):
    adata = make_adata(20)
    model = sf.model.CellPLM(genes=adata.var_names, n_hidden=16, n_layers=1, n_latent=4)
    sf.tl.cell_attention(adata, model=model, spatial_key="spatial", k=1, device="cpu")
    with pytest.raises(ValueError, match=r"No cell to draw has two kept weights, which a direction takes. Keep more"):
        sf.pl.cell_attention(adata)


def test_mudata_are_drawn_too(attended):
    assert sf.pl.cell_attention(MuData({"rna": attended})).collections
    with pytest.raises(ValueError, match=r"no modality 'atac'"):
        sf.pl.cell_attention(MuData({"rna": attended}), modality="atac")


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (None, {"kind": "arrow"}, r"kind must be one of 'arrows', 'stream', 'groups'; got 'arrow'"),
        (None, {"context": "A1"}, r"All cells are one context in this result; got context='A1'"),
        (None, {"context": "A1", "kind": "groups"}, r"Groups are summed over all contexts; got context='A1'"),
        (None, {"kind": "stream"}, r"All cells lie on a line, and streams need a plane"),
        (None, {"palette": {"B cell": "red"}}, r"no colour for 'monocyte' of adata.obs\['cell_type'\]"),
        (None, {"color": "depth", "palette": ["red"]}, r"holds numbers, which take the name of a colour map"),
        ("unplaced", {"context": "blood"}, r"2 of the 2 cells to draw have no coordinates in adata.obsm\['spatial'\]"),
        ("one sample", {"context": "node"}, r"obs\['sample'\] has no context 'node'. Pass context= one of \['blood'\]"),
        ("no samples", {}, r"adata.obs no longer has the column 'sample' that named the contexts"),
    ],
)
def test_what_cannot_be_drawn_is_said(attended, damage, arguments, message):
    attended.obs["depth"] = np.arange(6.0)
    if damage is not None:
        attended.uns["cell_attention"]["params"]["batch_key"] = "sample"
    if damage == "unplaced":
        attended.obs["sample"] = ["tissue"] * 4 + ["blood"] * 2
        attended.obsm["spatial"][4:] = np.nan
        assert sf.pl.cell_attention(attended, context="tissue").collections
    if damage == "one sample":
        attended.obs["sample"] = pd.Categorical(["blood"] * 6)
    with pytest.raises(ValueError, match=message):
        sf.pl.cell_attention(attended, **arguments)


def test_groups_are_drawn_where_there_are_no_coordinates(with_groups):
    axes = sf.pl.cell_attention(with_groups)
    drawn = axes.images[0].get_array()
    groups = with_groups.uns["cell_attention"]["groups"]
    np.testing.assert_allclose(drawn, groups["enrichment"].to_numpy().reshape(2, 2))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["B cell", "monocyte"]


@pytest.mark.parametrize(("largest", "reach"), [(1.001, 0.1), (1.4, 0.4)])
def test_small_enrichments_stay_pale(with_groups, largest, reach):
    groups = with_groups.uns["cell_attention"]["groups"]
    groups["enrichment"] = [largest, 1.0, 1.0, 2 - largest]
    image = sf.pl.cell_attention(with_groups, kind="groups").images[0]
    np.testing.assert_allclose(image.get_clim(), (1 - reach, 1 + reach))


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
    with pytest.raises(ValueError, match=r"obs\['batch'\] has no context 'batch 9'. Pass context= one of \['batch"):
        sf.pl.cell_attention(with_groups, kind="arrows", context="batch 9")
    with pytest.raises(ValueError, match=r"no column 'colour'"):
        sf.pl.cell_attention(attended, color="colour")
    del attended.obsm["spatial"]
    with pytest.raises(ValueError, match=r"obsm has no 'spatial', so arrows have nowhere to lead"):
        sf.pl.cell_attention(attended)
