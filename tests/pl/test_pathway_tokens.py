"""Pictures of codes: those that tell groups apart, with their genes and sets, and what is missing is said."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from mudata import MuData

import scfoundry as sf

mpl.use("Agg")


@pytest.fixture
def tokenised(make_adata):
    """Code 0 is of b, code 1 of c, code 2 of nobody, code 3 of a, rare but sure; all of them have genes but 2."""
    adata = make_adata(60)
    rng = np.random.default_rng(0)
    adata.obs["type"] = pd.Categorical(np.repeat(["b", "a", "c"], [30, 20, 10]), ["a", "b", "c"])
    of_type = pd.DataFrame(
        {"a": [0.1, 0.3, 0.3, 0.06], "b": [0.3, 0.1, 0.3, 0], "c": [0.1, 0.5, 0.3, 0]},
        [f"code_{i}" for i in range(4)],
    )
    frequencies = of_type[adata.obs["type"].astype(str)].T.to_numpy() + 0.01 * rng.normal(size=(60, 4))
    adata.obsm["X_pathway_tokens"] = pd.DataFrame(
        frequencies.astype(np.float32), index=adata.obs_names, columns=of_type.index
    )
    genes = [("code_0", 1, "MS4A1"), ("code_0", 2, "CD79A"), ("code_1", 1, "LYZ"), ("code_3", 1, "CD3E")]
    sets = pd.DataFrame({"code": ["code_0", "code_0", "code_3"], "gene_set": ["B CELLS", "OTHERS", "T" * 80]})
    association = pd.DataFrame(genes, columns=["code", "rank", "gene"])
    adata.uns["pathway_tokens"] = {"association": association, "enrichment": sets}
    yield adata
    plt.close("all")


def rows(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def sets(axes):
    return {round(text.xy[1]): text.get_text() for text in axes.texts if text.xy[0] == 1 and text.get_text() != HEADER}


HEADER = "surest gene set"


def test_codes_stand_by_the_group_that_uses_them_most_with_their_genes_and_sets(tokenised):
    axes = sf.pl.pathway_tokens(tokenised, "type")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [row.split("   ")[-1] for row in rows(axes)][-1] == "1"
    assert set(rows(axes)) == {"CD3E   3", "MS4A1, CD79A   0", "LYZ   1", "2"}
    written = [sets(axes)[i] for i in range(4)]
    expected = {"CD3E   3": "T" * 57 + "...", "MS4A1, CD79A   0": "B CELLS"}
    assert written == [expected.get(row, "") for row in rows(axes)]
    values = axes.images[0].get_array()
    peaks = dict(zip(rows(axes), values.argmax(1), strict=True))
    assert (peaks["CD3E   3"], peaks["MS4A1, CD79A   0"], peaks["LYZ   1"]) == (0, 1, 2)
    assert (np.diff(values.argmax(1)) >= 0).all()


def test_colours_are_differences_from_the_mean_over_groups_in_standard_deviations(tokenised):
    axes = sf.pl.pathway_tokens(tokenised, "type", n_codes=3)
    frequencies, types = tokenised.obsm["X_pathway_tokens"].astype(float), tokenised.obs["type"]
    for row, values in zip(rows(axes), axes.images[0].get_array(), strict=True):
        of_code = frequencies[f"code_{row.split('   ')[-1]}"]
        by_type = of_code.groupby(types, observed=True)
        means = by_type.mean()
        deviation = np.sqrt(means.var(ddof=0) + by_type.var(ddof=0).mean())
        np.testing.assert_allclose(values, (means - means.mean()) / deviation)
    low, high = axes.images[0].get_clim()
    assert high == -low == pytest.approx(np.abs(axes.images[0].get_array()).max())


def test_the_codes_that_tell_groups_apart_are_drawn(tokenised):
    axes = sf.pl.pathway_tokens(tokenised, "type", n_codes=3, n_genes=0)
    # However rarely a code is used.
    assert set(rows(axes)) == {"0", "1", "3"}
    assert set(rows(sf.pl.pathway_tokens(tokenised, "type", n_codes=2, n_genes=1))) <= {
        "MS4A1   0",
        "LYZ   1",
        "CD3E   3",
    }


def test_small_differences_stay_pale(tokenised):
    tokenised.obs["half"] = np.where(np.arange(60) % 2, "odd", "even")
    image = sf.pl.pathway_tokens(tokenised, "half").images[0]
    assert np.abs(image.get_array()).max() < 0.5
    np.testing.assert_allclose(image.get_clim(), (-0.5, 0.5))


def test_cells_without_tokens_or_group_are_left_out(tokenised):
    expected = sf.pl.pathway_tokens(tokenised[5:].copy(), "type").images[0].get_array()
    tokenised.obsm["X_pathway_tokens"].iloc[:3] = np.nan
    tokenised.obs.loc[tokenised.obs_names[3:5], "type"] = np.nan
    np.testing.assert_allclose(sf.pl.pathway_tokens(tokenised, "type").images[0].get_array(), expected)


def test_a_key_of_ones_own_a_modality_and_axes_are_used(tokenised):
    tokenised.obsm["mine"] = tokenised.obsm.pop("X_pathway_tokens")
    tokenised.uns["mine"] = {"association": tokenised.uns.pop("pathway_tokens")["association"]}
    _, axes = plt.subplots()
    assert sf.pl.pathway_tokens(MuData({"rna": tokenised}), "type", key="mine", ax=axes) is axes
    assert not any(sets(axes).values())
    assert HEADER not in [text.get_text() for text in axes.texts]


def test_nothing_is_cut_off(tokenised):
    tokenised.obs["type"] = tokenised.obs["type"].cat.rename_categories({"a": "a type with a name of many letters"})
    axes = sf.pl.pathway_tokens(tokenised, "type")
    axes.figure.canvas.draw()
    width, height = axes.figure.bbox.size
    texts = [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.figure.axes[1].xaxis.label]
    for text in texts:
        box = text.get_window_extent()
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text


def test_showing_returns_nothing(tokenised, monkeypatch):
    seen = []
    monkeypatch.setattr(plt, "show", lambda: seen.append(True))
    assert sf.pl.pathway_tokens(tokenised, "type", show=True) is None
    assert seen


REFUSED = {
    "key": ({"key": "other"}, r"no result 'other' of sf.tl.pathway_tokens. Run it first"),
    "column": ({"groupby": "leiden"}, r"adata.obs has no column 'leiden'; its columns: 'batch', .*as groupby"),
    "codes": ({"n_codes": 0}, r"n_codes is a number of codes, from 1.*got 0 and 3. The defaults: n_codes=20"),
    "genes": ({"n_genes": -1}, r"got 20 and -1"),
    "groups": ({"groupby": "one"}, r"adata.obs\['one'\] has cells with tokens in 1 groups.*two groups or more"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_drawn_is_said(tokenised, wrong):
    arguments, message = REFUSED[wrong]
    tokenised.obs["one"] = "all"
    with pytest.raises(ValueError, match=message):
        sf.pl.pathway_tokens(tokenised, **{"groupby": "type"} | arguments)


def test_cells_that_all_have_the_same_tokens_are_refused(tokenised):
    tokenised.obsm["X_pathway_tokens"].iloc[:] = np.float32(0.25)
    with pytest.raises(ValueError, match=r"All cells have the same tokens"):
        sf.pl.pathway_tokens(tokenised, "type")
