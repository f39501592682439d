"""Labels of which a cell may have several, learned with any model that embeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from cases import with_pathways
from sklearn.linear_model import LogisticRegression

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.tasks import Pathways
from scfoundry.tasks.annotation.features import CellFeatures

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

CPU = Compute(torch.device("cpu"))


@pytest.fixture
def datasets(make_adata: Callable[..., AnnData]) -> tuple[AnnData, AnnData]:
    return with_pathways(make_adata(240), "interferon", "TNF")


@pytest.fixture(params=["small", "encoder"])
def model(request: pytest.FixtureRequest, make_adata: Callable[..., AnnData], small_model: Any) -> Any:
    encoder = sf.model.CellPLM(genes=make_adata().var_names, n_hidden=16, n_layers=1, n_latent=4)
    return {"small": small_model, "encoder": encoder}[request.param]


def cells_of(adata: AnnData, model: Any) -> Cells:
    return Cells.of(adata, model.genes, caller="test")


def fit(model: Any, reference: AnnData, **how: Any) -> Pathways:
    targets = reference.obsm["active"].astype(int)
    return Pathways.fit(model, cells_of(reference, model), targets, compute=CPU, **how)


def test_every_pathway_is_told_on_its_own(model, datasets):
    query, reference = datasets
    pathways = fit(model, reference, query=cells_of(query, model))
    found = pathways.predict(cells_of(query, model), CPU)
    assert (found.dtype, found.shape, pathways.names) == (np.float32, (120, 2), ("interferon", "TNF"))
    assert ((found > 0.5) == query.obsm["active"].to_numpy()).mean() > 0.95
    assert pathways.n_cells.tolist() == reference.obsm["active"].sum().tolist()


def test_heads_are_logistic_regressions(datasets, small_model):
    _, reference = datasets
    cells = cells_of(reference, small_model)
    _, values = CellFeatures.fit(small_model, cells, None, cells.measured, CPU)
    active = reference.obsm["active"]["TNF"].astype(int)
    expected = LogisticRegression(tol=1e-10, max_iter=10_000).fit(values.astype(float), active)
    found = fit(small_model, reference).predict(cells, CPU)[:, 1]
    np.testing.assert_allclose(found, expected.predict_proba(values.astype(float))[:, 1], atol=1e-4)


def test_embeddings_of_any_scale_weigh_the_same(datasets, small_model):
    query, reference = datasets
    expected = fit(small_model, reference).predict(cells_of(query, small_model), CPU)
    small_model.projection = 1000 * small_model.projection
    found = fit(small_model, reference).predict(cells_of(query, small_model), CPU)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_what_was_learned_is_kept_bit_for_bit(datasets, make_adata, tmp_path):
    query, reference = datasets
    model = sf.model.CellPLM(genes=make_adata().var_names, n_hidden=16, n_layers=1, n_latent=4)
    pathways = fit(model, reference, query=cells_of(query, model))
    pathways.save(tmp_path)
    again = Pathways.load(tmp_path)
    assert again.names == pathways.names
    np.testing.assert_array_equal(again.n_cells, pathways.n_cells)
    cells = cells_of(query, model)
    np.testing.assert_array_equal(again.predict(cells, CPU), pathways.predict(cells, CPU))


def test_the_order_of_cells_does_not_matter(model, datasets):
    query, reference = datasets
    expected = fit(model, reference).predict(cells_of(query, model), CPU)
    found = fit(model, reference[::-1].copy()).predict(cells_of(query, model), CPU)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_that_stay_as_they_are_say_so(datasets, small_model):
    with pytest.raises(ValueError, match=r"'small' stay as they are.*got train='all', max_epochs=None. Leave both out"):
        fit(small_model, datasets[1], train="all")
