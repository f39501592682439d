"""Vectors of genes from a graph of interactions: what they say, what plays no part, what is refused."""

import sys

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf
from scfoundry.datasets import human_genes
from scfoundry.nn import graph_autoencoder
from scfoundry.nn.graph_autoencoder import scaled_cosine_error

QUICK = {"n_dims": 16, "max_epochs": 40, "lr": 3e-3}


@pytest.fixture(scope="module", autouse=True)
def _with_graph_package():
    pytest.importorskip("torch_geometric")


@pytest.fixture(scope="module")
def symbols():
    table = human_genes()
    named = table.loc[(table["biotype"] == "protein_coding") & (table["symbol"] != ""), "symbol"]
    return named.drop_duplicates().to_numpy()[:40]


@pytest.fixture(scope="module")
def edges(symbols):
    """Two communities of twenty genes; of pairs within half interact, of those between a fiftieth."""
    rng = np.random.default_rng(0)
    one, other = np.triu_indices(40, 1)
    within = (one < 20) == (other < 20)
    joined = rng.random(len(one)) < np.where(within, 0.5, 0.02)
    return pd.DataFrame({"a": symbols[one[joined]], "b": symbols[other[joined]]})


def cosines(vectors, one, other):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit.loc[one].to_numpy() * unit.loc[other].to_numpy()).sum(1)


def test_communities_are_alike(edges, symbols):
    vectors = sf.pp.gene_vectors_from_graph(edges, **QUICK)
    assert vectors.shape == (40, 16)
    assert set(vectors.dtypes) == {np.dtype("float32")}
    assert sorted(vectors.index) == sorted(symbols)
    one, other = np.triu_indices(40, 1)
    within = (one < 20) == (other < 20)
    found = cosines(vectors, symbols[one], symbols[other])
    assert (found[within][:, None] > found[~within]).mean() > 0.95
    assert found[within].mean() > found[~within].mean() + 0.2
    assert np.square(vectors.to_numpy()).mean() == pytest.approx(1, rel=1e-5)


def test_the_loss_falls(edges, monkeypatch, logged):
    found = []
    learn = graph_autoencoder.graph_vectors
    watched = lambda *what, **how: (found.append(learn(*what, **how)), found[-1])[1]  # noqa: E731
    monkeypatch.setattr("scfoundry.pp._gene_vectors_from_graph.graph_vectors", watched)
    sf.pp.gene_vectors_from_graph(edges, **QUICK)
    losses = found[0].losses
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert any(f"40 genes with {len(edges):,} interactions" in message for message in logged)


def test_the_same_seed_gives_the_same_vectors_and_another_one_others(edges):
    first, again, other = (sf.pp.gene_vectors_from_graph(edges, rng=seed, **QUICK) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert not np.allclose(first, other)


def test_order_direction_repeats_and_loops_play_no_part(edges):
    expected = sf.pp.gene_vectors_from_graph(edges, **QUICK)
    turned = edges.iloc[::-1].rename(columns={"a": "b", "b": "a"})[["a", "b"]]
    loops = pd.DataFrame({"a": edges["a"][:5], "b": edges["a"][:5]})
    found = sf.pp.gene_vectors_from_graph(pd.concat([turned, edges[:9], loops]), **QUICK)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_weights_count_and_their_scale_does_not(edges):
    weighted = edges.assign(score=np.random.default_rng(0).uniform(100, 900, len(edges)))
    plain = sf.pp.gene_vectors_from_graph(weighted, **QUICK)
    found = sf.pp.gene_vectors_from_graph(weighted, weight="score", **QUICK)
    scaled = sf.pp.gene_vectors_from_graph(weighted.assign(score=weighted["score"] / 2), weight="score", **QUICK)
    np.testing.assert_allclose(scaled, found, atol=1e-3)
    assert np.abs(found - plain).to_numpy().max() > 0.05


def test_genes_are_found_by_old_names_and_ids_and_others_are_left_out(logged):
    edges = pd.DataFrame({"a": ["MARCH1", "CD3E", "nonsense"], "b": ["CD3E", "ENSG00000111640.2", "GAPDH"]})
    vectors = sf.pp.gene_vectors_from_graph(edges, **QUICK)
    assert sorted(vectors.index) == ["CD3E", "ENSG00000111640.2", "MARCH1"]
    assert any(
        "1 of 3 interactions are left out, for 1 names are of no human gene, such as 'nonsense'" in m for m in logged
    )


@pytest.mark.parametrize(
    ("edges", "how", "error", "message"),
    [
        ({"a": [], "b": []}, {}, ValueError, r"it has 0 rows and the columns 'a', 'b', .*pd.DataFrame\("),
        ({"a": ["TP53"]}, {}, ValueError, "must name two genes in every row; it has 1 rows and the columns 'a'"),
        ({"a": ["TP53"], "s": [1]}, {"weight": "s"}, ValueError, "must name two genes in every row"),
        ({"a": ["TP53", "CD3E"], "b": ["TP53", "CD3E"]}, {}, ValueError, "All 2 interactions .* of a gene with itself"),
        ({"a": ["9606.ENSP1"], "b": ["TP53"]}, {}, ValueError, r"both genes known, for example '9606.ENSP1'.*\.map\("),
        ({"a": ["TP53"], "b": ["MDM2"]}, {"weight": "s"}, KeyError, "no column 's'; it has 'a', 'b'"),
        ({"a": ["TP53"], "b": ["MDM2"], "s": [0]}, {"weight": "s"}, ValueError, r"1 of 1 are not.*edges\['s'\] > 0"),
        ({"a": ["TP53"], "b": ["MDM2"], "s": ["high"]}, {"weight": "s"}, ValueError, "must hold positive weights"),
        ({"a": ["TP53"], "b": ["MDM2"]}, {"n_dims": 0}, ValueError, "n_dims must be positive; got 0"),
        ({"a": ["TP53"], "b": ["MDM2"]}, {"mask_ratio": 1}, ValueError, "mask_ratio must lie between 0 and 1; got 1"),
    ],
)
def test_what_is_no_graph_is_refused_with_what_would_be_one(edges, how, error, message):
    with pytest.raises(error, match=message):
        sf.pp.gene_vectors_from_graph(pd.DataFrame(edges), **how)


def test_two_genes_are_a_graph():
    vectors = sf.pp.gene_vectors_from_graph(pd.DataFrame({"a": ["TP53"], "b": ["MDM2"]}), **QUICK)
    assert np.isfinite(vectors.to_numpy()).all()


def test_without_the_extra_the_line_that_installs_it_is_given(edges, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "scfoundry-models\[graph\]"'):
        sf.pp.gene_vectors_from_graph(edges, **QUICK)


def test_scaled_cosine_error_by_hand():
    import torch

    truth = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    guesses = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert scaled_cosine_error(guesses, truth, gamma=3.0) == pytest.approx(0.5)
    assert scaled_cosine_error(-guesses, truth, gamma=3.0) == pytest.approx((8 + 1) / 2)


def test_interactions_that_were_held_out_are_of_genes_that_are_alike(shared_data):
    """A tenth of the interactions among cancer genes that STRING is sure of, beside random pairs without any."""
    edges = pd.read_csv(shared_data / "knowledge" / "ppi_cancer_genes.tsv.gz", sep="\t")
    sure = edges[edges["score"] >= 700].sort_values(["gene_a", "gene_b"], ignore_index=True)
    rng = np.random.default_rng(0)
    held_out = rng.random(len(sure)) < 0.1
    vectors = sf.pp.gene_vectors_from_graph(sure[~held_out], 64, weight="score", max_epochs=60)
    known = sure["gene_a"].isin(vectors.index) & sure["gene_b"].isin(vectors.index)
    hidden = sure[held_out & known]
    pairs = {frozenset(pair) for pair in zip(edges["gene_a"], edges["gene_b"], strict=True)}
    drawn = rng.choice(vectors.index.to_numpy(), (4000, 2))
    others = np.array([pair for pair in drawn if pair[0] != pair[1] and frozenset(pair) not in pairs])
    of_hidden = cosines(vectors, hidden["gene_a"], hidden["gene_b"])
    of_others = cosines(vectors, others[:, 0], others[:, 1])
    auroc = (of_hidden[:, None] > of_others).mean()
    assert len(hidden) > 500
    assert auroc > 0.9  # by the numbers of their interactions alone: 0.88
