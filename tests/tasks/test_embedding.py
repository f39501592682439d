from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from cases import SmallModel, same, state_of
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.nn.counts import SparseCounts
from scfoundry.nn.negative_binomial import negative_binomial_loss
from scfoundry.tasks.embedding.embedder import Embedder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

CPU = Compute(torch.device("cpu"))
N_CELLS, N_GENES, N_NEW = 160, 120, 40


@pytest.fixture(scope="module")
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    """Two types; genes vary together along one axis within them."""
    rng = np.random.default_rng(0)
    made = make_adata(N_CELLS, N_GENES)
    types = rng.lognormal(size=(2, N_GENES))[(made.obs["cell_type"] == "monocyte").to_numpy().astype(int)]
    axis = np.exp(rng.normal(size=(N_CELLS, 1)) * rng.normal(size=N_GENES))
    made.X = sparse.csr_matrix(rng.poisson(2 * types * axis).astype(np.float32))
    return made


@pytest.fixture(scope="module")
def model(adata: AnnData) -> sf.model.CellPLM:
    structure = {"n_hidden": 16, "n_layers": 1, "n_latent": 4, "n_decoder_hidden": 16, "n_bottleneck": 8}
    return sf.model.CellPLM(genes=adata.var_names, **structure)


def opened(adata: AnnData, model: Any, batch_key: str | None = "batch") -> Cells:
    return Cells.of(adata, model.genes, batch_key=batch_key, caller="test")


def fitted(adata: AnnData, model: Any, *, max_epochs: int | None = 2, **how: Any) -> tuple[Embedder, NDArray]:
    return Embedder.fit(model, opened(adata, model), fine_tune=True, max_epochs=max_epochs, compute=CPU, **how)


def loss_of_hidden_genes(model: sf.model.CellPLM, cells: Cells) -> float:
    """Of every second gene of cells that show the others."""
    shown, hidden = cells.measured[::2], torch.from_numpy(cells.measured[1::2])
    rates = model.expected_rates(torch.from_numpy(model.embed(cells.only(shown), CPU)), hidden)
    dispersion = model.decoder.log_dispersion.exp()[hidden]
    loss, _ = negative_binomial_loss(SparseCounts.from_csr(cells.read()), rates, dispersion, genes=hidden)
    return float(loss.detach().mean())


def test_fine_tuning_tells_genes_of_cells_that_it_has_not_seen(adata: AnnData, model: sf.model.CellPLM) -> None:
    before, new = state_of(model), opened(adata[:N_NEW].copy(), model, None)
    tuned, _ = fitted(adata[N_NEW:].copy(), model, max_epochs=30, adapt=None)
    few, _ = fitted(adata[N_NEW:].copy(), model, max_epochs=1, adapt=None)
    losses = [loss_of_hidden_genes(of_method, new) for of_method in (model, few.model, tuned.model)]
    assert losses[0] > losses[1] > losses[2]
    same(state_of(model), before)


@pytest.mark.parametrize("adapt", [None, "components"])
def test_new_cells_go_where_they_would_have_been_also_after_saving(
    adata: AnnData, model: sf.model.CellPLM, tmp_path: Path, adapt: Any
) -> None:
    embedder, embedding = fitted(adata, model, adapt=adapt)
    embedder.save(tmp_path)
    loaded = Embedder.load(tmp_path)
    assert (loaded.method, loaded.adapt) == (embedder.method, adapt)
    assert loaded.fine_tuned
    same(state_of(loaded.model), state_of(embedder.model))
    moved = adata[np.random.default_rng(1).permutation(N_CELLS)].copy()
    for again in (embedder, loaded):
        np.testing.assert_array_equal(again.predict(opened(adata, model), compute=CPU), embedding)
        there = again.predict(opened(moved, model), compute=CPU)
        np.testing.assert_allclose(there[moved.obs_names.get_indexer(adata.obs_names)], embedding, atol=1e-5)


def test_the_seed_decides_and_the_order_of_cells_and_genes_does_not(adata: AnnData, model: sf.model.CellPLM) -> None:
    embedder, _ = fitted(adata, model, adapt=None, seed=1)
    rng = np.random.default_rng(2)
    moved = adata[rng.permutation(N_CELLS), rng.permutation(N_GENES)].copy()
    again, _ = fitted(moved, model, adapt=None, seed=1)
    same(state_of(again.model), state_of(embedder.model))
    other, _ = fitted(adata, model, adapt=None, seed=2)
    weights = state_of(other.model)
    assert any(np.any(weights[name] != value) for name, value in state_of(embedder.model).items())


def test_cells_without_counts_teach_nothing(adata: AnnData, model: sf.model.CellPLM) -> None:
    empty = AnnData(adata.X[:3] * 0, obs=adata.obs[:3].copy(), var=adata.var)
    empty.obs_names = ["a", "b", "c"]
    both = AnnData(sparse.vstack([adata.X, empty.X]).tocsr(), var=adata.var)
    both.obs_names = [*adata.obs_names, *empty.obs_names]
    both.obs["batch"] = [*adata.obs["batch"], *empty.obs["batch"]]
    same(state_of(fitted(both, model)[0].model), state_of(fitted(adata, model)[0].model))
    with pytest.raises(ValueError, match=r"None of the 3 cells expresses a gene .*fine_tune=False"):
        fitted(empty, model)


def test_batches_are_told_apart_by_the_decoder(adata: AnnData, model: sf.model.CellPLM) -> None:
    tuned = fitted(adata, model)[0].model
    assert (tuned.config.n_batches, model.config.n_batches) == (2, 0)
    once = Embedder.fit(model, opened(adata, model, None), fine_tune=True, max_epochs=1, compute=CPU)[0]
    assert once.model.config.n_batches == 0


def test_a_large_context_is_seen_in_parts(
    adata: AnnData, model: sf.model.CellPLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scfoundry.model.cellplm._fine_tune_expression.MAX_CELLS", 30)
    seen, encode = [], type(model.module).encode
    monkeypatch.setattr(
        type(model.module),
        "encode",
        lambda self, counts, *rest: (seen.append(counts.n_cells), encode(self, counts, *rest))[1],
    )
    cells = opened(adata, model)
    model.fine_tune_expression(cells, max_epochs=1, seed=0, compute=CPU)
    assert max(seen) == 30
    assert len(seen) == sum(-(-len(context.rows) // 30) for context in cells.contexts)


def test_a_model_that_cannot_is_refused(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"cannot use SmallModel, which has no fine-tuning .* model=\"cellplm\""):
        fitted(adata, SmallModel(adata.var_names))
