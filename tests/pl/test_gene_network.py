"""Pictures of gene networks: they draw the heaviest edges, the same at every call, and say what is missing."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch
from mudata import MuData

import scfoundry as sf

mpl.use("Agg")


@pytest.fixture
def networked(make_adata):
    """Two groups; the first has a hub, a pair apart, and a light edge."""
    adata = make_adata(10, 8)
    g = adata.var_names
    edges = [("a", g[1], g[0]), ("a", g[2], g[0]), ("a", g[0], g[3]), ("a", g[4], g[5]), ("a", g[6], g[0])]
    edges += [("b", g[0], g[1])]
    table = pd.DataFrame(edges, columns=["group", "source", "target"]).astype({"group": "category"})
    adata.uns["gene_network"] = {"edges": table.assign(weight=np.float32([0.9, 0.8, 0.7, 0.65, 0.6, 0.9]), n_cells=10)}
    adata.var["programme"] = pd.Categorical([*"2212222", None], ["2", "1"])
    yield adata
    plt.close("all")


def drawn(axes):
    return {text.get_text(): text for text in axes.texts}


def test_every_edge_is_an_arrow_and_every_gene_has_a_name(networked):
    axes = sf.pl.gene_network(networked, group="a")
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 5
    assert set(drawn(axes)) == set(networked.var_names[:7])
    assert axes.get_title() == "a"
    widths = sorted(arrow.get_linewidth() for arrow in arrows)
    assert widths[0] < widths[-1]


def test_the_heaviest_edges_and_those_of_genes_are_drawn(networked):
    axes = sf.pl.gene_network(networked, group="a", n_edges=2)
    assert set(drawn(axes)) == set(networked.var_names[:3])
    axes = sf.pl.gene_network(networked, group="a", genes=networked.var_names[3])
    assert set(drawn(axes)) == set(networked.var_names[[0, 3]])


def test_genes_do_not_lie_on_each_other_and_every_call_draws_the_same(networked):
    pictures = [sf.pl.gene_network(networked, group="a") for _ in range(2)]
    first, second = (np.array([text.xy for text in axes.texts]) for axes in pictures)
    np.testing.assert_array_equal(first, second)
    apart = np.linalg.norm(first[:, None] - first[None], axis=-1)[np.triu_indices(len(first), 1)]
    assert apart.min() > 0.3


def test_genes_take_the_colours_of_their_groups_in_their_order(networked):
    axes = sf.pl.gene_network(networked, group="a", color="programme", palette=["#ff0000", "#00ff00"])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["2", "1"]
    assert [to_hex(dots.get_facecolor()[0]) for dots in axes.collections] == ["#ff0000", "#00ff00"]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 7


def test_given_axes_and_a_modality_are_used(networked):
    _, axes = plt.subplots()
    assert sf.pl.gene_network(MuData({"rna": networked}), group="b", ax=axes) is axes
    assert len(axes.patches) == 1


REFUSED = {
    "key": ({"key": "other"}, r"no result 'other' of sf.tl.gene_network. Run it first"),
    "groups": ({}, r"has 2 groups, of which one is drawn. Pass group= one of 'a', 'b'"),
    "group": ({"group": "c"}, r"no group 'c'. Pass group= one of 'a', 'b'"),
    "gene": ({"group": "a", "genes": ["CD3E"]}, r"from or to 'CD3E'"),
    "color": ({"group": "a", "color": "leiden"}, r"adata.var has no column 'leiden'; its columns: 'programme'"),
    "n_edges": ({"group": "a", "n_edges": 0}, r"n_edges is the number of edges to draw, from 1; got 0"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_drawn_is_refused(networked, wrong):
    arguments, message = REFUSED[wrong]
    with pytest.raises(ValueError, match=message):
        sf.pl.gene_network(networked, **arguments)


def test_a_result_without_edges_says_how_to_get_some(networked):
    networked.uns["gene_network"]["edges"] = networked.uns["gene_network"]["edges"].iloc[5:]
    with pytest.raises(ValueError, match=r"There is no edge to draw. .*min_cells=1"):
        sf.pl.gene_network(networked, group="a")
