"""Tumour or normal: what is learned, saved and refused, and the warning; the rest is in `test_every_verb`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import rankdata

import scfoundry as sf
from scfoundry.tasks.tumour import CONFOUNDED

SIZES = {"n_hidden": 16, "n_layers": 1, "n_heads": 2, "n_head": 8, "n_intermediate": 16, "n_features": 16}
CONFOUNDED_START = r"The label 'tumour' is confounded with the study"


@pytest.fixture(scope="module")
def both(make_adata):
    adata = make_adata(240, 40)
    adata.obs["tissue"] = np.where(adata.obs["cell_type"] == "B cell", "tumour", "normal")
    return adata[:160].copy(), adata[160:].copy()


@pytest.fixture(scope="module")
def cells(both):
    return both[0]


def trained(cells, tumour_key="tissue", **how):
    adata = cells.copy()
    sf.model.CellLM.setup_anndata(adata, tumour_key=tumour_key)
    model = sf.model.CellLM(adata, n_contrast=0, **SIZES)
    quick = {"max_epochs": 30, "lr": 5e-3, "batch_size": 16, "accelerator": "cpu", "enable_progress_bar": False}
    model.train(**quick | how)
    return model


@pytest.fixture(scope="module")
def model(cells):
    return trained(cells)


def probabilities(adata, model, **how):
    with pytest.warns(UserWarning, match=CONFOUNDED_START):
        return sf.tl.discriminate_tumour(adata, model=model, device="cpu", copy=True, **how)


def test_cells_of_tumours_are_told_from_others(both, model):
    held_out = both[1]
    is_tumour = (held_out.obs["tissue"] == "tumour").to_numpy()
    ranks = rankdata(probabilities(held_out, model).obs["tumour_probability"])
    n = is_tumour.sum()
    auroc = (ranks[is_tumour].sum() - n * (n + 1) / 2) / (n * (~is_tumour).sum())
    assert auroc > 0.8


def test_the_warning_stands_in_the_record_and_in_the_docstring_and_points_to_the_caller(cells, model):
    adata = cells.copy()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sf.tl.discriminate_tumour(adata, model=model, device="cpu")
    (said,) = [warning for warning in caught if issubclass(warning.category, UserWarning)]
    assert said.filename == __file__
    assert adata.uns["tumour_probability"]["warning"] == CONFOUNDED == str(said.message)
    assert CONFOUNDED_START[4:] in " ".join(sf.tl.discriminate_tumour.__doc__.replace('"', "'").split())


def test_a_cell_without_genes_has_no_probability(cells, model):
    adata = cells.copy()
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    found = probabilities(adata, model).obs["tumour_probability"]
    assert np.flatnonzero(found.isna()).tolist() == [3]


def test_a_folder_says_that_the_head_was_trained_and_gives_the_same_numbers(cells, model, tmp_path):
    expected = probabilities(cells, model).obs["tumour_probability"]
    model.save_pretrained(tmp_path / "folder")
    assert model.provenance["objectives"] == ["masked_values", "tumour"]
    for loaded in (tmp_path / "folder", sf.model.CellLM.from_pretrained(tmp_path / "folder"), model.copy()):
        found = probabilities(cells, loaded)
        assert found.uns["tumour_probability"]["provenance"]["objectives"] == ["masked_values", "tumour"]
        np.testing.assert_array_equal(found.obs["tumour_probability"], expected)


def test_scvi_tools_keep_the_head_and_what_it_learned(cells, model, tmp_path):
    model.save(tmp_path / "saved")
    loaded = sf.model.CellLM.load(tmp_path / "saved", adata=model.adata)
    expected = probabilities(cells, model).obs["tumour_probability"]
    np.testing.assert_array_equal(probabilities(cells, loaded).obs["tumour_probability"], expected)


def untrained(cells):
    return sf.model.CellLM(genes=cells.var_names, n_contrast=0, **SIZES)


UNABLE = {
    "untrained": (
        untrained,
        r"'untrained' have a head for tumours that learned nothing\. Train .*tumour_key=\"tissue\"",
    ),
    "without": (
        lambda cells: sf.model.CellLM(genes=cells.var_names, tumour_head=False, **SIZES),
        r"'untrained' have no such head\. .*from_pretrained\(source, adata, tumour_head=True\)",
    ),
    "without labels": (lambda cells: trained(cells, None, max_epochs=1), r"learned nothing\. Train .*tumour_key="),
}


@pytest.mark.parametrize("unable", UNABLE)
def test_a_head_that_learned_nothing_is_refused_by_saying_how_to_train_one(cells, unable):
    make, message = UNABLE[unable]
    adata = cells.copy()
    with pytest.raises(ValueError, match=message):
        sf.tl.discriminate_tumour(adata, model=make(cells), device="cpu")
    assert "tumour_probability" not in adata.obs


def test_an_encoder_that_went_on_learning_without_the_head_has_none_any_more(cells, model):
    adata = cells.copy()
    sf.model.CellLM.setup_anndata(adata)
    tuned = sf.model.CellLM(adata, n_contrast=0, **SIZES)
    tuned.module.load_state_dict(model.module.state_dict())
    tuned.description_ = dict(model.description_)
    tuned.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(ValueError, match="learned nothing"):
        sf.tl.discriminate_tumour(cells.copy(), model=tuned, device="cpu")


def test_tumours_alone_teach_nothing(cells):
    with pytest.raises(ValueError, match=r"needs both, and obs\['tissue'\] has no normal cell.*\"tumour\": 0"):
        trained(cells[cells.obs["tissue"] == "tumour"].copy())
