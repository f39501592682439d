from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData

mpl.use("Agg")
GENES = 3


@pytest.fixture(scope="module")
def full(make_adata: Callable[..., AnnData]) -> AnnData:
    """Spots in three sections with the genes that were held out."""
    return make_adata(90, 60, n_batches=3)


@pytest.fixture(scope="module")
def result(full: AnnData, make_adata: Callable[..., AnnData]) -> AnnData:
    spots = full[:, GENES:].copy()
    model = sf.model.CellPLM(genes=full.var_names, n_hidden=16, n_latent=4, n_decoder_hidden=8, n_layers=1)
    reference = make_adata(80, 60, seed=1)
    sf.tl.impute_spatial(spots, reference, model=model, context_key="batch", device="cpu")
    return spots


@pytest.fixture
def adata(result: AnnData) -> AnnData:
    return result.copy()


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(ax: plt.Axes) -> tuple[np.ndarray, np.ndarray]:
    """Values and places, by value."""
    return ax.collections[0].get_array(), ax.collections[0].get_offsets()


def test_measured_and_imputed_values_lie_beside_each_other(adata: AnnData, full: AnnData) -> None:
    genes = full.var_names[[2, 0]].tolist()
    axes = sf.pl.imputed(adata, genes, truth=full)
    assert axes.shape == (2, 2)
    for gene, (left, right) in zip(genes, axes, strict=True):
        measured, imputed = np.log1p(full[:, gene].X.toarray().ravel()), np.log1p(adata.obsm["imputed"][gene])
        np.testing.assert_allclose(drawn(left)[0], np.sort(measured), rtol=1e-6)
        np.testing.assert_allclose(drawn(right)[0], np.sort(imputed), rtol=1e-6)
        reached = np.corrcoef(measured, imputed)[0, 1]
        expected = adata.uns["imputed"]["confidence"].loc[gene, "pearson"]
        assert left.get_title() == f"{gene}, measured\ndetected in {np.mean(measured > 0):.0%} of spots"
        assert right.get_title() == f"{gene}, imputed\nr = {reached:.2f}, expected {expected:.2f}"


def test_without_measured_values_the_imputed_ones_stand_alone(adata: AnnData, full: AnnData) -> None:
    axes = sf.pl.imputed(adata, full.var_names[0])
    assert axes.shape == (1, 1)
    assert "imputed\nexpected r = " in axes[0, 0].get_title()


def test_spots_are_matched_by_name(adata: AnnData, full: AnnData) -> None:
    gene = full.var_names[0]
    expected = sf.pl.imputed(adata, gene, truth=full)
    shuffled = full[np.random.default_rng(0).permutation(full.n_obs)].copy()
    axes = sf.pl.imputed(adata, gene, truth=shuffled)
    for before, after in zip(expected.ravel(), axes.ravel(), strict=True):
        assert before.get_title() == after.get_title()
        for x, y in zip(drawn(before), drawn(after), strict=True):
            np.testing.assert_array_equal(x, y)


def test_measured_values_may_be_logarithms_or_in_a_layer(adata: AnnData, full: AnnData) -> None:
    gene = full.var_names[0]
    expected = drawn(sf.pl.imputed(adata, gene, truth=full)[0, 0])[0]
    logged = full.copy()
    logged.layers["counts"] = full.X.copy()
    sc.pp.log1p(logged)
    for layer in (None, "counts"):
        values = drawn(sf.pl.imputed(adata, gene, truth=logged, layer=layer)[0, 0])[0]
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_genes_that_came_later_are_drawn_from_the_data_itself(adata: AnnData, full: AnnData) -> None:
    whole = full.copy()
    whole.obsm["imputed"], whole.uns["imputed"] = adata.obsm["imputed"], adata.uns["imputed"]
    assert sf.pl.imputed(whole, full.var_names[0]).shape == (1, 2)


def test_sections_do_not_overlap(adata: AnnData, full: AnnData) -> None:
    ax = sf.pl.imputed(adata, full.var_names[0])[0, 0]
    assert {text.get_text() for text in ax.texts} == {"batch 0", "batch 1", "batch 2"}
    places = drawn(ax)[1]
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    assert (apart.max(1) > 1000).all()
    assert len(np.unique(places, axis=0)) == 90


def test_one_section_is_drawn_as_it_lies_and_scored_with_all(adata: AnnData, full: AnnData) -> None:
    gene, rows = full.var_names[0], np.flatnonzero(full.obs["batch"] == "batch 1")
    ax = sf.pl.imputed(adata, gene, truth=full, context="batch 1")[0, 1]
    assert ax.get_title() == sf.pl.imputed(adata, gene, truth=full)[0, 1].get_title()
    values, places = drawn(ax)
    imputed = np.log1p(adata.obsm["imputed"][gene].to_numpy()[rows])
    order = np.argsort(imputed, kind="stable")
    np.testing.assert_allclose(values, imputed[order], rtol=1e-6)
    xy = full.obsm["spatial"][rows]
    np.testing.assert_allclose(places, (xy - xy.min(0))[order], atol=1e-6)
    assert not ax.texts
    assert ax.get_aspect() == 1
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_some_sections(adata: AnnData, full: AnnData) -> None:
    ax = sf.pl.imputed(adata, full.var_names[0], context=["batch 2", "batch 0"])[0, 0]
    assert [text.get_text() for text in ax.texts] == ["batch 2", "batch 0"]


def test_dots_have_the_diameter_asked_for(adata: AnnData, full: AnnData) -> None:
    dots = sf.pl.imputed(adata, full.var_names[0], size=12.5)[0, 0].collections[0]
    np.testing.assert_allclose(dots.get_widths(), 12.5)


def test_axes_may_be_given(adata: AnnData, full: AnnData) -> None:
    _, given = plt.subplots(1, 2)
    axes = sf.pl.imputed(adata, full.var_names[0], truth=full, axes=given)
    assert axes.ravel().tolist() == given.tolist()
    _, ax = plt.subplots()
    assert sf.pl.imputed(adata, full.var_names[0], axes=ax).item() is ax
    with pytest.raises(ValueError, match="axes holds 1, but 1 genes with 2 each need 2"):
        sf.pl.imputed(adata, full.var_names[0], truth=full, axes=ax)


def test_columns(adata: AnnData, full: AnnData) -> None:
    genes = full.var_names[:GENES].tolist()
    for ncols, shape in ((None, (2, 4)), (1, (3, 2)), (3, (1, 6))):
        grid = sf.pl.imputed(adata, genes, truth=full, ncols=ncols)[0, 0].get_gridspec()
        assert (grid.nrows, grid.ncols) == shape


def test_constant_genes_and_unknown_confidence_are_drawn(adata: AnnData, full: AnnData) -> None:
    gene, silent = full.var_names[0], full.copy()
    silent.X = silent.X.toarray() * (np.arange(60) > 0)
    adata.obsm["imputed"][gene] = 0.0
    adata.uns["imputed"]["confidence"].loc[gene] = np.nan
    left, right = sf.pl.imputed(adata, gene, truth=silent)[0]
    assert "detected in 0% of spots" in left.get_title()
    assert right.get_title().strip() == f"{gene}, imputed"


def test_a_result_from_a_file_is_drawn(adata: AnnData, full: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "spots.h5ad")
    full.write_h5ad(tmp_path / "full.h5ad")
    spots, truth = (ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r") for name in ("spots", "full"))
    axes = sf.pl.imputed(spots, full.var_names[0], truth=truth)
    assert axes[0, 1].get_title() == sf.pl.imputed(adata, full.var_names[0], truth=full)[0, 1].get_title()


def test_show_returns_nothing(adata: AnnData, full: AnnData) -> None:
    assert sf.pl.imputed(adata, full.var_names[0], show=True) is None


def test_it_says_what_is_missing(adata: AnnData, full: AnnData) -> None:
    gene = full.var_names[0]
    with pytest.raises(ValueError, match=r"no result 'imputed'.*Run it first: sf.tl.impute_spatial"):
        sf.pl.imputed(full, gene)
    with pytest.raises(ValueError, match=r"'CD3E' was not imputed; .* has 3 genes.*genes=\['CD3E'\]"):
        sf.pl.imputed(adata, "CD3E")
    with pytest.raises(ValueError, match="genes is empty"):
        sf.pl.imputed(adata, [])
    with pytest.raises(ValueError, match="no coordinates 'xy'; its keys: 'spatial'"):
        sf.pl.imputed(adata, gene, spatial_key="xy")
    with pytest.raises(ValueError, match=r"context must be among 'batch 0', 'batch 1', 'batch 2'; got 'batch 7'"):
        sf.pl.imputed(adata, gene, context="batch 7")
    with pytest.raises(ValueError, match="no column 'fov'; its columns: 'batch', 'cell_type'"):
        sf.pl.imputed(adata, gene, context_key="fov")
    with pytest.raises(ValueError, match=r"truth lacks 40 of the 90 spots.*truth = full\[adata.obs_names\]"):
        sf.pl.imputed(adata, gene, truth=full[:50])
    with pytest.raises(ValueError, match=f"truth lacks '{gene}'"):
        sf.pl.imputed(adata, gene, truth=full[:, 1:])
    scaled = full.copy()
    scaled.X = scaled.X.toarray() - 1
    with pytest.raises(ValueError, match=r"sf.pl.imputed needs .*negative"):
        sf.pl.imputed(adata, gene, truth=scaled)
    del adata.uns["imputed"]["params"]["context_key"]
    with pytest.raises(ValueError, match="There is one section only"):
        sf.pl.imputed(adata, gene, context="batch 1")
