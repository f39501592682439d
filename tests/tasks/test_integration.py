from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from cases import MODELS, SmallModel, same, state_of
from scipy import sparse

from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.tasks.integration.integrator import Integrator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

CPU = Compute(torch.device("cpu"))
N_CELLS, N_GENES = 120, 60
FITTING = ("cellplm", "celler")


@pytest.fixture(scope="module")
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    """Two types in each of two batches, in one of which half of the genes are caught ten times as well."""
    rng = np.random.default_rng(0)
    made = make_adata(N_CELLS, N_GENES)
    types = rng.lognormal(size=(2, N_GENES))[(made.obs["cell_type"] == "monocyte").to_numpy().astype(int)]
    first = (made.obs["batch"] == made.obs["batch"].iloc[0]).to_numpy()
    caught = np.where(first[:, None] & (np.arange(N_GENES) < 30), 10, 1)
    made.X = sparse.csr_matrix(rng.poisson(types * caught).astype(np.float32))
    return made


@pytest.fixture(scope="module", params=FITTING)
def model(request: pytest.FixtureRequest, adata: AnnData) -> Any:
    return MODELS[request.param](adata.var_names)


def opened(adata: AnnData, model: Any, **how: Any) -> Cells:
    return Cells.of(adata, model.genes, batch_key="batch", caller="test", **how)


def fitted(adata: AnnData, model: Any, *, max_epochs: int = 2, **how: Any) -> Integrator:
    return Integrator.fit(model, opened(adata, model), n_genes=40, max_epochs=max_epochs, compute=CPU, **how)


def distance_of_batches(embedding: NDArray, adata: AnnData) -> float:
    """Of their means, in units of the spread of cells."""
    first = (adata.obs["batch"] == adata.obs["batch"].iloc[0]).to_numpy()
    return float(np.linalg.norm(embedding[first].mean(0) - embedding[~first].mean(0)) / embedding.std(0).mean())


def test_batches_come_closer_where_the_decoder_is_told_which_one_it_is(adata: AnnData) -> None:
    model = MODELS["cellplm"](adata.var_names)
    before = distance_of_batches(model.embed(opened(adata, model), CPU), adata)
    integrator = fitted(adata, model, max_epochs=30)
    after = distance_of_batches(integrator.predict(opened(adata, model), compute=CPU), adata)
    assert after < 0.8 * before


def test_training_lowers_what_it_is_to_lower(adata: AnnData, model: Any) -> None:
    history = fitted(adata, model, max_epochs=10).model.history_
    losses = history["loss_train"].iloc[:, 0].astype(float)
    assert losses.iloc[-1] < losses.iloc[0]


def test_saved_and_loaded_it_predicts_to_the_bit_the_same_and_the_model_stays(
    adata: AnnData, model: Any, tmp_path: Path
) -> None:
    before = state_of(model)
    integrator = fitted(adata, model)
    same(state_of(model), before)
    integrator.save(tmp_path)
    loaded = Integrator.load(tmp_path)
    assert loaded.batches == integrator.batches == tuple(sorted(adata.obs["batch"].unique()))
    np.testing.assert_array_equal(loaded.genes, integrator.genes)
    cells = opened(adata, model)
    np.testing.assert_array_equal(loaded.predict(cells, compute=CPU), integrator.predict(cells, compute=CPU))


def test_the_seed_decides_and_the_order_of_cells_and_genes_does_not(adata: AnnData, model: Any) -> None:
    integrator, rng = fitted(adata, model, seed=1), np.random.default_rng(2)
    again = fitted(adata[rng.permutation(N_CELLS), rng.permutation(N_GENES)].copy(), model, seed=1)
    same(state_of(again.model), state_of(integrator.model))
    other = state_of(fitted(adata, model, seed=2).model)
    assert any(np.any(other[name] != value) for name, value in state_of(integrator.model).items())


def test_only_the_most_variable_genes_are_read(adata: AnnData, model: Any) -> None:
    integrator = fitted(adata, model)
    assert len(integrator.genes) == 40
    changed = adata.copy()
    others = np.setdiff1d(np.arange(N_GENES), model.genes.index_of(changed.var_names)[integrator.genes])
    dense = changed.X.toarray()
    dense[:, others] += 5
    changed.X = sparse.csr_matrix(dense)
    np.testing.assert_array_equal(
        integrator.predict(opened(changed, model), compute=CPU), integrator.predict(opened(adata, model), compute=CPU)
    )


def test_cells_of_a_batch_that_is_new_and_of_one_cell(adata: AnnData, model: Any) -> None:
    single = adata.copy()
    single.obs["batch"] = single.obs["batch"].astype(str)
    single.obs.iloc[5, single.obs.columns.get_loc("batch")] = "alone"
    integrator = fitted(single, model)
    assert "alone" in integrator.batches
    assert np.isfinite(integrator.predict(opened(single, model), compute=CPU)).all()
    new = adata[:20].copy()
    new.obs["batch"] = "new"
    assert integrator.unseen(opened(new, model)) == ["new"]
    assert np.isfinite(integrator.predict(opened(new, model), compute=CPU)).all()


def test_cells_without_counts_teach_nothing_and_are_placed(adata: AnnData, model: Any) -> None:
    empty = AnnData(adata.X[:3] * 0, obs=adata.obs[:3].copy(), var=adata.var)
    empty.obs_names = ["a", "b", "c"]
    both = AnnData(sparse.vstack([adata.X, empty.X]).tocsr(), var=adata.var)
    both.obs_names = [*adata.obs_names, *empty.obs_names]
    both.obs["batch"] = [*adata.obs["batch"], *empty.obs["batch"]]
    integrator = fitted(both, model)
    same(state_of(integrator.model), state_of(fitted(adata, model).model))
    assert np.isfinite(integrator.predict(opened(both, model), compute=CPU)).all()
    with pytest.raises(ValueError, match=r"None of the 3 cells expresses a gene|at least 2 batches"):
        fitted(empty, model)


def test_a_cell_of_celler_lies_where_it_lay_whoever_is_with_it(adata: AnnData) -> None:
    model = MODELS["celler"](adata.var_names)
    integrator = fitted(adata, model)
    together, few = integrator.predict(opened(adata, model), compute=CPU), np.array([40, 3, 17])
    alone = integrator.predict(opened(adata[few].copy(), model), compute=CPU)
    np.testing.assert_allclose(alone, together[few], atol=1e-5)


def test_a_single_batch_and_a_model_that_cannot_are_refused(adata: AnnData, model: Any) -> None:
    one = adata.copy()
    one.obs["batch"] = "only"
    with pytest.raises(ValueError, match=r"at least 2 batches; these are of 'only'.*sf.tl.embed\(adata, model\)"):
        fitted(one, model)
    with pytest.raises(ValueError, match=r"cannot use SmallModel, which has no fine-tuning on batches"):
        fitted(adata, SmallModel(adata.var_names))
