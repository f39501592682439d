import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from cases import SmallModel

import scfoundry as sf


@pytest.fixture
def model(make_adata):
    """An untrained model that scales its input, so that counts and log-normalised values mean the same."""
    return sf.model.CellPLM(genes=make_adata().var_names, n_hidden=32, n_latent=6, library_size="cp10k")


@pytest.fixture
def adata(make_adata):
    return make_adata()


def test_without_adaptation_the_embedding_is_that_of_the_model(model, adata):
    sf.tl.embed(adata, model, adapt=None, device="cpu")
    assert adata.uns["cellplm"]["params"]["method"] == "latent"
    assert "adaptation" not in adata.uns["cellplm"]
    np.testing.assert_array_equal(adata.obsm["X_cellplm"], model.get_latent_representation(adata, device="cpu"))


def test_arguments_left_at_none_are_not_recorded(model, adata):
    sf.tl.embed(adata, model, batch_key="batch", device="cpu")
    assert adata.uns["cellplm"]["params"] == {
        "adapt": "components",
        "fine_tune": False,
        "batch_key": "batch",
        "method": "components and latent",
        "precision": "auto",
    }


def test_what_was_learned_is_recorded(model, adata, logged, tmp_path):
    how = {"fine_tune": True, "max_epochs": 1, "rng": 3, "device": "cpu"}
    embedder = sf.tl.embed(adata, model, adapt=None, **how, return_fitted=True)
    params = adata.uns["cellplm"]["params"]
    assert params == {
        "fine_tune": True,
        "max_epochs": 1,
        "method": "fine-tuned latent",
        "precision": "auto",
        "rng": 3,
    }
    assert embedder.model.provenance["weights"] == "untrained, fine-tuned"
    assert any("untrained on cpu, to be fine-tuned: 60 cells" in message for message in logged)
    embedder.save(tmp_path)
    sf.tl.embed(adata, tmp_path, device="cpu", key_added="again")
    np.testing.assert_array_equal(adata.obsm["again"], adata.obsm["X_cellplm"])
    assert adata.uns["again"]["params"] == {"fine_tune": True, "method": "fine-tuned latent", "precision": "auto"}


def test_one_line_tells_what_is_about_to_happen(model, adata, logged):
    sf.tl.embed(adata[:, :30].copy(), model, batch_key="batch", device="cpu")
    [line] = [message for message in logged if "cells in" in message]
    assert "untrained on cpu, to be adapted: 60 cells in 2 contexts, raw counts" in line
    assert "30 of 30 genes matched" in line


def test_symbols_and_the_default_weights(make_adata):
    adata = make_adata()
    by_id = sf.tl.embed(adata, copy=True, device="cpu")
    table = sf.datasets.human_genes()
    adata.var_names = table.loc[adata.var_names, "symbol"]
    by_symbol = sf.tl.embed(adata, copy=True, device="cpu")
    np.testing.assert_array_equal(by_id.obsm["X_cellplm"], by_symbol.obsm["X_cellplm"])


def test_columns_that_share_a_gene_are_said_once(model, adata, logged):
    adata.var_names = [*adata.var_names[:-1], f"{adata.var_names[0]}.2"]
    sf.tl.embed(adata, model, device="cpu")
    assert sum("repeat the gene of another column" in message for message in logged) == 1


def test_then_scanpy_goes_on_as_usual(model, adata):
    sf.tl.embed(adata, model, device="cpu")
    # Nothing that has to be compiled first; the tutorials have the defaults.
    sc.pp.neighbors(adata, use_rep="X_cellplm", transformer="sklearn", method="gauss")
    assert adata.obsp["connectivities"].shape == (60, 60)


# ---- what was fitted ----------------------------------------------------------------------------------------------


def by_cell(genes):
    """A model that reads every cell by itself, so that nothing but the fit ties cells together."""
    return SmallModel(genes)


@pytest.fixture
def fitted(adata):
    both = adata.copy()
    embedder = sf.tl.embed(both, by_cell(adata.var_names), batch_key="batch", device="cpu", return_fitted=True)
    return embedder, both.obsm["X_small"]


def test_new_cells_go_where_they_would_have_been(fitted, adata):
    embedder, together = fitted
    few, genes = np.array([40, 3, 17]), np.random.default_rng(0).permutation(adata.n_vars)
    more = adata[few, genes].copy()
    sf.tl.embed(more, embedder, batch_key="batch", device="cpu")
    np.testing.assert_allclose(more.obsm["X_small"], together[few], atol=1e-5)
    assert more.uns["small"]["adaptation"]["n_batches"] == 2


def test_saved_and_loaded_it_embeds_to_the_bit_the_same(model, adata, tmp_path):
    kwargs = {"batch_key": "batch", "device": "cpu"}
    embedder = sf.tl.embed(adata, model, **kwargs, return_fitted=True)
    embedder.save(tmp_path)
    more = adata.copy()
    sf.tl.embed(more, tmp_path, **kwargs)
    np.testing.assert_array_equal(more.obsm["X_cellplm"], adata.obsm["X_cellplm"])
    assert more.uns["cellplm"]["adaptation"] == adata.uns["cellplm"]["adaptation"]


def test_a_latent_that_tells_nothing_of_hidden_genes_is_left_out(make_adata):
    adata = make_adata(150, 120)

    class Noise(SmallModel):
        def embed(self, cells, compute):
            return np.random.default_rng(cells.measured.sum()).normal(size=(cells.n_obs, 8)).astype(np.float32)

    for model, method in ((Noise, "components"), (SmallModel, None)):
        sf.tl.embed(adata, model(adata.var_names), device="cpu")
        found = adata.uns["small"]["adaptation"]
        assert list(found["explained"]) == ["0", "0.25", "0.5"]
        assert method in (None, adata.uns["small"]["params"]["method"])
    assert found["explained"]["0.5"] > 0


def test_cells_of_a_batch_that_the_fit_does_not_know_are_refused(fitted, adata):
    adata.obs["batch"] = "another"
    with pytest.raises(ValueError, match=r"batches \['another'\] cannot be placed.*sf.tl.embed\(both, model"):
        sf.tl.embed(adata, fitted[0], batch_key="batch")
    assert "X_small" not in adata.obsm


def test_what_has_no_effect_is_refused(fitted, adata):
    with pytest.raises(ValueError, match=r"learns no more, so that adapt would have no effect"):
        sf.tl.embed(adata, fitted[0], batch_key="batch", adapt=None)
    with pytest.raises(ValueError, match=r"learns no more, so that fine_tune would have no effect"):
        sf.tl.embed(adata, fitted[0], batch_key="batch", fine_tune=True)
    with pytest.raises(ValueError, match=r"max_epochs=5 is of fine-tuning: fine_tune=True"):
        sf.tl.embed(adata, fitted[0], batch_key="batch", max_epochs=5)
    with pytest.raises(ValueError, match=r"adapt must be one of 'components' or None; got False"):
        sf.tl.embed(adata, fitted[0], batch_key="batch", adapt=False)
    with pytest.raises(ValueError, match=r"a copy of adata or the fitted object, not both"):
        sf.tl.embed(adata, fitted[0], batch_key="batch", copy=True, return_fitted=True)


@pytest.mark.parametrize("n_obs", [1, 2, 5])
def test_few_cells_each_its_own_batch(adata, n_obs):
    few = adata[:n_obs].copy()
    few.obs["batch"] = few.obs_names
    sf.tl.embed(few, by_cell(adata.var_names), batch_key="batch", device="cpu")
    assert np.isfinite(few.obsm["X_small"]).all()


def test_cells_without_counts_change_nothing_for_the_others(adata):
    model = by_cell(adata.var_names)
    alone = sf.tl.embed(adata, model, device="cpu", copy=True).obsm["X_small"]
    nothing = ad.AnnData(adata.X[:2] * 0, obs=adata.obs[:2].copy(), var=adata.var)
    nothing.obs_names = ["empty", "void"]
    both = ad.concat([adata, nothing])
    sf.tl.embed(both, model, device="cpu")
    np.testing.assert_allclose(both.obsm["X_small"][:-2], alone, atol=1e-5)
    assert np.isfinite(both.obsm["X_small"]).all()


def test_cells_that_are_all_alike_have_the_latent_alone(model, adata):
    alike = ad.AnnData(np.repeat(adata.X[[0]].toarray(), 9, 0), var=adata.var)
    sf.tl.embed(alike, model, device="cpu")
    np.testing.assert_array_equal(alike.obsm["X_cellplm"], model.get_latent_representation(alike, device="cpu"))


# ---- what is refused ----------------------------------------------------------------------------------------------


def normalised_only(adata):
    adata.X = adata.X * 7.31


def unplaced(adata):
    adata.obsm["spatial"][:3] = np.nan


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (normalised_only, {}, r"sf.tl.embed needs raw counts"),
        (unplaced, {"spatial_key": "spatial"}, r"3 of 60 cells .*missing or infinite coordinates"),
        (None, {"batch_key": "sample"}, r"no column 'sample'; its columns: 'batch', 'cell_type'"),
        (None, {"spatial_key": "xy"}, r"no 'xy'; its keys: 'spatial'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(model, adata, damage, arguments, message):
    if damage:
        damage(adata)
    before = set(adata.obsm), set(adata.uns)
    with pytest.raises(ValueError, match=message):
        sf.tl.embed(adata, model, **arguments)
    assert (set(adata.obsm), set(adata.uns)) == before


def test_scaled_example_data_are_refused_with_the_way_out(model):
    with pytest.raises(ValueError, match=r"adata = adata.raw.to_adata\(\)"):
        sf.tl.embed(sc.datasets.pbmc68k_reduced(), model)


@pytest.mark.parametrize("name", ["pbmc_3tech_1200", "lymph_node_visium", "starmap_mpfc_mouse"])
def test_real_data(shared_data, name):
    """Symbols and batches, a spatial section, and mouse genes that are found as orthologs."""
    adata = ad.read_h5ad(shared_data / f"{name}.h5ad")
    keys = {"pbmc_3tech_1200": {"batch_key": "batch"}, "lymph_node_visium": {"spatial_key": "spatial"}}
    sf.tl.embed(adata, device="cpu", **keys.get(name, {}))
    embedding = adata.obsm["X_cellplm"]
    assert np.isfinite(embedding).all()
    assert embedding.std(0).min() > 0
