import numpy as np
import pytest
from cases import MODELS

import scfoundry as sf


@pytest.fixture
def adata(make_adata):
    return make_adata()


@pytest.fixture(scope="module")
def fitted(make_adata):
    adata = make_adata()
    how = {"batch_key": "batch", "max_epochs": 1, "device": "cpu"}
    integrator = sf.tl.integrate(adata, model=MODELS["celler"](adata.var_names), **how, return_fitted=True)
    return integrator, adata


def test_what_was_fitted_goes_on_from_its_folder(fitted, adata, tmp_path):
    integrator, together = fitted
    integrator.save(tmp_path)
    sf.tl.integrate(adata, batch_key="batch", model=tmp_path, device="cpu")
    np.testing.assert_array_equal(adata.obsm["X_celler_integrated"], together.obsm["X_celler_integrated"])
    record = adata.uns["celler_integrated"]
    assert record["params"] == {"batch_key": "batch", "rng": 0, "precision": "auto"}
    assert record["integration"] == together.uns["celler_integrated"]["integration"]
    assert record["integration"]["batches"] == sorted(adata.obs["batch"].unique())
    assert set(record["integration"]["genes"]) <= set(adata.var_names)


def test_new_batches_are_named(fitted, adata, logged):
    adata.obs["batch"] = "new"
    sf.tl.integrate(adata, batch_key="batch", model=fitted[0], device="cpu")
    assert adata.uns["celler_integrated"]["integration"]["unseen"] == ["new"]
    assert any("Of the batches 'new' nothing was learned" in line for line in logged)


def without_a_value(adata):
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.iloc[3, adata.obs.columns.get_loc("batch")] = np.nan


def in_one_batch(adata):
    adata.obs["batch"] = "one"


REFUSED = {
    "no such column": (
        None,
        {"batch_key": "donor"},
        r"no column 'donor'; its columns: .*Pass one .* as batch_key",
    ),
    "cells of no batch": (without_a_value, {}, r"1 of 60 cells have no value in adata.obs\['batch'\].*notna\(\)"),
    "one batch": (in_one_batch, {}, r"at least 2 batches; these are of 'one'"),
    "no genes": (None, {"n_genes": 0}, r"n_genes must be at least 1; got 0"),
    "no epochs": (None, {"max_epochs": 0}, r"max_epochs must be at least 1; got 0"),
    "two results": (None, {"copy": True, "return_fitted": True}, r"a copy of adata or the fitted object, not both"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_integrated_is_refused(adata, name):
    damage, arguments, message = REFUSED[name]
    if damage is not None:
        damage(adata)
    with pytest.raises(ValueError, match=message):
        sf.tl.integrate(adata, **({"batch_key": "batch", "model": "cellplm", "device": "cpu"} | arguments))
    assert set(adata.obsm) == {"spatial"}


@pytest.mark.parametrize("given", [{"n_genes": 10}, {"max_epochs": 2}])
def test_what_was_fitted_learns_no_more(fitted, adata, given):
    with pytest.raises(ValueError, match=rf"learns no more, so that {next(iter(given))} would have no effect"):
        sf.tl.integrate(adata, batch_key="batch", model=fitted[0], **given)
