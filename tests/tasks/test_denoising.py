"""Counts are expected from what a model and the nearest cells know, and learned without what scores them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from cases import moved, weights
from scipy import sparse, stats

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.nn.checkpoint import CheckpointError
from scfoundry.tasks import Denoiser
from scfoundry.tasks._fitted import write_fitted
from scfoundry.tasks.denoising.expectation import Expectation, expected_given_detection, gene_rates, hold_out

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

CPU = Compute(torch.device("cpu"))
TINY = {"n_hidden": 32, "n_layers": 2, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata(80)


@pytest.fixture
def model(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    return sf.model.CellPLM(genes=make_adata().var_names, **TINY)


@pytest.fixture(scope="module")
def fitted_once(make_adata: Callable[..., AnnData]) -> Denoiser:
    adata = make_adata(80)
    return fit(sf.model.CellPLM(genes=adata.var_names, **(TINY | {"n_layers": 1})), adata)


@pytest.fixture
def fitted(fitted_once: Denoiser) -> Denoiser:
    return replace(fitted_once, neighbor_weight=0.3)


def cells_of(adata: AnnData, model: Any, **keys: Any) -> Cells:
    return Cells.of(adata, model.genes, caller="a test", allow_log1p=False, **keys)


def fit(model: Any, adata: AnnData, *, max_epochs: int = 3, seed: int = 0, **keys: Any) -> Denoiser:
    return Denoiser.fit(model, cells_of(adata, model, **keys), max_epochs=max_epochs, seed=seed, compute=CPU)


def predict(
    denoiser: Denoiser,
    adata: AnnData,
    *,
    columns: Any = None,
    given_detected: bool = False,
    compute: Compute = CPU,
    **keys: Any,
) -> NDArray[np.float32]:
    cells = cells_of(adata, denoiser.model, **keys)
    return denoiser.predict(cells, columns=columns, given_detected=given_detected, compute=compute)


def depth(adata: AnnData) -> NDArray[np.float32]:
    return np.asarray(adata.X.sum(1)).ravel()


# ---- what is hidden ------------------------------------------------------------------------------------------------


def test_expected_counts_given_detection_are_those_of_a_truncated_poisson() -> None:
    means = torch.tensor([0.0, 1e-8, 0.3, 2.0, 50.0])
    expected = [1, 1, *(mean / (1 - stats.poisson.pmf(0, mean)) for mean in (0.3, 2.0, 50.0))]
    np.testing.assert_allclose(expected_given_detection(means), expected, rtol=1e-5)


def test_hidden_counts_are_a_tenth_and_low_ones_more_often() -> None:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.choice([0, 1, 60], size=(500, 40), p=[0.2, 0.4, 0.4]).astype(np.float32))
    visible, hidden = hold_out(counts, 0.1, rng)
    np.testing.assert_array_equal((visible + hidden).toarray(), counts.toarray())
    np.testing.assert_array_equal(np.diff(hidden.indptr), (0.1 * np.diff(counts.indptr)).astype(int))
    assert visible.multiply(hidden).nnz == 0
    # exp(-1/20) against exp(-60/20), twenty times less; draws without replacement even that out a little.
    assert 10 < (hidden.data == 1).sum() / (hidden.data == 60).sum() < 25


def test_hidden_counts_follow_the_distribution_of_simulate_dropout(make_adata: Callable[..., AnnData]) -> None:
    cell = make_adata(1, 200)
    cell.X.data = cell.X.data * 7
    times, shape = 400, cell.shape[1]
    ours = sum(
        hold_out(cell.X.tocsr(), 0.1, np.random.default_rng(i))[1].astype(bool).toarray().ravel() for i in range(times)
    )
    published = sum(
        sf.pp.simulate_dropout(cell, rng=i, copy=True).layers["test_mask"].toarray().ravel().astype(int)
        for i in range(times)
    )
    assert len(ours) == shape
    assert ours.sum() == published.sum()
    assert np.abs(ours / times - published / times).max() < 5 * np.sqrt(2 * 0.25 / times)


def test_cells_with_few_genes_lose_none() -> None:
    counts = sparse.csr_matrix(np.tri(12, dtype=np.float32))
    _, hidden = hold_out(counts, 0.5, np.random.default_rng(0))
    np.testing.assert_array_equal(np.diff(hidden.indptr), [0] * 5 + [i // 2 for i in range(6, 13)])


def test_nothing_to_hide_is_refused(model: sf.model.CellPLM, adata: AnnData) -> None:
    adata.X = sparse.csr_matrix(np.eye(*adata.shape, dtype=np.float32) * 3)
    with pytest.raises(ValueError, match=r"None of the 80 cells expresses enough genes.*fine_tune=False"):
        fit(model, adata)


# ---- the nearest cells ---------------------------------------------------------------------------------------------


def test_nearest_cells_leave_out_the_cell_itself_and_empty_cells() -> None:
    latent = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    counts = sparse.csr_matrix(np.array([[4, 0], [1, 3], [0, 0], [0, 5]], dtype=np.float32))
    totals = counts.sum(1).A1
    shares = Expectation(latent, totals, counts.__getitem__, 2, 1.0, None).shares(np.array([0, 2]))
    np.testing.assert_allclose(shares[0], [0.125, 0.875])
    # Three cells are left and two of them may be neighbours: of cell 2 the nearest ones.
    np.testing.assert_allclose(shares[1], [0.625, 0.375])


def test_a_cell_that_is_alone_has_the_decoder(model: sf.model.CellPLM, adata: AnnData) -> None:
    adata.obs["sample"] = ["one", *["other"] * (adata.n_obs - 1)]
    fitted = fit(model, adata, max_epochs=1, batch_key="sample")
    decoded, smoothed = (predict(replace(fitted, neighbor_weight=w), adata, batch_key="sample") for w in (0.0, 1.0))
    np.testing.assert_allclose(smoothed[0], decoded[0], rtol=1e-6)


def test_a_cell_that_is_alone_keeps_its_counts_without_a_decoder(small_model: Any, adata: AnnData) -> None:
    adata.obs["sample"] = ["one", *["other"] * (adata.n_obs - 1)]
    expected = predict(fit(small_model, adata, batch_key="sample"), adata, batch_key="sample")
    np.testing.assert_allclose(expected[0], adata.X[0].toarray().ravel(), rtol=1e-6)


def test_a_large_pool_is_drawn_from(fitted: Denoiser, adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scfoundry.tasks.denoising.expectation.MAX_POOL", 20)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    expected, moved = (predict(fitted, cells) for cells in (adata, shuffled))
    np.testing.assert_allclose(moved, expected[adata.obs_names.get_indexer(shuffled.obs_names)], rtol=1e-4, atol=1e-5)


# ---- fitting -------------------------------------------------------------------------------------------------------


def test_fitting_changes_a_copy(model: sf.model.CellPLM, adata: AnnData) -> None:
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    cells = adata.copy()
    fitted = fit(model, adata)
    assert fitted.model is not model
    for name, tensor in model.module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    learned = fitted.model.module.state_dict()
    for part in ("embedder.genes", "layers.0.expand.weight", "norm.weight", "latent.mean.weight", "decoder.mean.bias"):
        assert not torch.equal(learned[part], before[part]), part
    assert fitted.log_offset.shape == (len(model.genes),)
    assert (adata.X != cells.X).nnz == 0
    assert fitted.validation["neighbor_weight"] == fitted.neighbor_weight
    assert fitted.validation["epochs"] == 3


def test_training_starts_with_the_mean_profile_of_the_data(
    model: sf.model.CellPLM, adata: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scfoundry.tasks.denoising.denoiser.LR", 0.0)
    monkeypatch.setattr("scfoundry.tasks.denoising.denoiser.DECODER_LR", 0.0)
    fitted = replace(fit(model, adata, max_epochs=1), neighbor_weight=0.0)
    start, pretrained = predict(fitted, adata), predict(Denoiser.as_pretrained(model), adata)
    observed = np.asarray(adata.X.sum(0)).ravel()
    assert np.corrcoef(observed, start.sum(0))[0, 1] > 0.95 > np.corrcoef(observed, pretrained.sum(0))[0, 1]


def test_the_seed_decides(model: sf.model.CellPLM, adata: AnnData) -> None:
    first, same, other = (predict(fit(model, adata, seed=seed), adata) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 0


def test_fitting_recovers_hidden_counts_better_than_constants(make_adata: Callable[..., AnnData]) -> None:
    adata = make_adata(200, 60)
    sf.pp.simulate_dropout(adata)
    model = sf.model.CellPLM(genes=adata.var_names, n_hidden=32, n_layers=1, n_latent=8, n_decoder_hidden=16)
    fitted = fit(model, adata, layer="train", max_epochs=15)
    truth, mask = adata.X, adata.layers["test_mask"]
    given = predict(fitted, adata, layer="train", given_detected=True)
    scores = sf.metrics.denoising(truth, given, mask, given_detected=True)["rmse"]
    assert scores["predicted"] < scores["count of 1"]
    scores = sf.metrics.denoising(truth, predict(fitted, adata, layer="train"), mask)["pearson_all"]
    assert scores["predicted"] > scores["gene mean"]
    assert fitted.validation["rmse_given_detected"] < fitted.validation["rmse_given_detected_count_of_one"]


@pytest.mark.parametrize("latent", ["vae", "gmvae", "ae"])
def test_every_latent_learns(adata: AnnData, latent: str) -> None:
    model = sf.model.CellPLM(genes=adata.var_names, latent=latent, **TINY)
    before = weights(model)
    fitted = fit(model, adata, max_epochs=1, batch_key="batch")
    assert "latent" in moved(before, fitted.model)
    assert np.isfinite(predict(fitted, adata, batch_key="batch")).all()


def test_a_fitted_denoiser_is_saved_and_loaded(fitted: Denoiser, adata: AnnData, tmp_path: Path) -> None:
    fitted.save(tmp_path / "denoiser")
    loaded = sf.tasks.Denoiser.load(tmp_path / "denoiser")
    for given_detected in (False, True):
        expected, again = (predict(it, adata, given_detected=given_detected) for it in (fitted, loaded))
        np.testing.assert_array_equal(again, expected)
    assert loaded.neighbor_weight == fitted.neighbor_weight == 0.3
    np.testing.assert_array_equal(loaded.log_offset, fitted.log_offset)
    assert loaded.validation == fitted.validation


def test_folders_of_something_else_are_refused(fitted: Denoiser, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"was not written by Denoiser\.save"):
        Denoiser.load(tmp_path)
    write_fitted(tmp_path, "Annotator", fitted.model, arrays={}, values={})
    with pytest.raises(CheckpointError, match="another kind than Denoiser"):
        Denoiser.load(tmp_path)


# ---- models that can do less ---------------------------------------------------------------------------------------


def test_a_model_that_only_embeds_smooths_over_the_nearest_cells(
    small_model: Any, adata: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scfoundry.tasks.denoising.expectation.N_NEIGHBORS", 5)
    fitted = fit(small_model, adata)
    assert (fitted.model, fitted.neighbor_weight, fitted.method) == (small_model, 1.0, "neighbours")
    assert set(fitted.validation) == {
        "neighbor_weight",
        "n_hidden",
        "rmse",
        "rmse_given_detected",
        "rmse_given_detected_count_of_one",
    }
    latent = small_model.embed(cells_of(adata, small_model), CPU)
    apart = np.linalg.norm(latent[:, None] - latent[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    shares = adata.X.toarray() / depth(adata)[:, None]
    expected = shares[np.argsort(apart, axis=1)[:, :5]].mean(1) * depth(adata)[:, None]
    np.testing.assert_allclose(predict(fitted, adata), expected, rtol=1e-4, atol=1e-6)


def test_decoders_of_log_expression_leave_it_to_the_nearest_cells(adata: AnnData) -> None:
    model = sf.model.CellPLM(genes=adata.var_names, likelihood="mse", **TINY)
    assert Denoiser.as_pretrained(model).method == fit(model, adata).method == "neighbours"


def test_a_decoder_that_cannot_be_tuned_is_weighed_as_it_is(small_model: Any, adata: AnnData) -> None:
    means = torch.from_numpy(np.asarray(adata.X.mean(0)).ravel() + 0.01)

    class Decodes(type(small_model)):
        decoder = torch.nn.Identity()

        def expected_rates(self, latent: torch.Tensor, genes: torch.Tensor | None = None) -> torch.Tensor:
            return means[genes].expand(len(latent), -1).clone()

    model = Decodes(small_model.genes)
    fitted = fit(model, adata)
    assert fitted.model is model
    assert fitted.method != "neighbours"
    assert "rmse_given_detected_decoder" in fitted.validation
    assert "epochs" not in fitted.validation
    expected = np.outer(depth(adata), means / means.sum())
    np.testing.assert_allclose(predict(Denoiser.as_pretrained(model), adata), expected, rtol=1e-4)


# ---- what comes out ------------------------------------------------------------------------------------------------


def test_the_offset_multiplies_rates_and_carries_gradients(model: sf.model.CellPLM) -> None:
    latent, genes = torch.ones(3, 6, requires_grad=True), torch.tensor([4, 1])
    factors = torch.tensor([0.5, 2.0])
    rates = gene_rates(model, latent, genes, factors.log())
    np.testing.assert_allclose(rates.detach(), (model.expected_rates(latent, genes) * factors).detach(), rtol=1e-6)
    rates.sum().backward()
    assert latent.grad is not None
    assert latent.grad.abs().sum() > 0


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_expected_counts_sum_to_the_depth_of_the_cell(fitted: Denoiser, adata: AnnData, weight: float) -> None:
    expected = predict(replace(fitted, neighbor_weight=weight), adata)
    np.testing.assert_allclose(expected.sum(1), depth(adata), rtol=1e-4)
    assert expected.min() >= 0


def test_columns_are_those_of_the_whole(fitted: Denoiser, adata: AnnData) -> None:
    columns = [7, 2, 31]
    np.testing.assert_allclose(predict(fitted, adata, columns=columns), predict(fitted, adata)[:, columns], rtol=1e-6)


def test_columns_of_one_gene_share_its_expectation(fitted: Denoiser, adata: AnnData) -> None:
    versions = adata[:, [*range(adata.n_vars), 3]].copy()
    names = adata.var_names.tolist()
    versions.var_names = [*names[:3], f"{names[3]}.1", *names[4:], f"{names[3]}.2"]
    counts = adata.X.toarray()
    versions.X = sparse.csr_matrix(np.hstack([counts, np.zeros_like(counts[:, :1])]))
    assert fitted.model.genes.align(versions).target[-1] == 3
    expected, shared = predict(fitted, adata), predict(fitted, versions)
    np.testing.assert_allclose(shared[:, -1], expected[:, 3] / 2, rtol=1e-5)
    np.testing.assert_allclose(shared[:, 3], expected[:, 3] / 2, rtol=1e-5)
    np.testing.assert_allclose(shared[:, :3], expected[:, :3], rtol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_of_unknown_columns_the_nearest_cells_tell_at_the_depth_of_the_known(
    fitted: Denoiser, adata: AnnData, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scfoundry.tasks.denoising.expectation.N_NEIGHBORS", 5)
    adata.var_names = [*adata.var_names[:-1], "spike-in"]
    rows = np.random.default_rng(0).permutation(adata.n_obs)[:30]
    some = cells_of(adata, fitted.model).take(rows)
    expected = replace(fitted, neighbor_weight=weight).predict(some, columns=[adata.n_vars - 1, 0], compute=CPU)
    apart = np.linalg.norm((latent := fitted.model.embed(some, CPU))[:, None] - latent[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    of_known = depth(adata[rows, :-1])
    per_count = adata.X[rows, -1].toarray().ravel() / of_known
    nearest = per_count[np.argsort(apart, axis=1)[:, :5]].mean(1)
    np.testing.assert_allclose(expected[:, 0], nearest * of_known, rtol=1e-3, atol=1e-6)
    assert weight == 1 or (expected[:, 1] > 0).all()


def test_a_cell_that_is_alone_keeps_its_counts_of_unknown_genes(fitted: Denoiser, adata: AnnData) -> None:
    adata.var_names = [*adata.var_names[:-1], "spike-in"]
    adata.obs["sample"] = ["one", *["other"] * (adata.n_obs - 1)]
    expected = predict(fitted, adata, batch_key="sample")
    assert expected[0, -1] == pytest.approx(adata.X[0, -1])


def test_unknown_genes_of_other_cells_are_denoised_after_loading(
    fitted: Denoiser, make_adata: Callable[..., AnnData], tmp_path: Path
) -> None:
    more = make_adata(50, 60, seed=1)
    more.var_names = [*more.var_names[:58], "spike-in", "spike-in"]
    fitted.save(tmp_path)
    expected, again = (predict(it, more) for it in (fitted, Denoiser.load(tmp_path)))
    np.testing.assert_array_equal(again, expected)
    assert (expected[:, 40:].sum(0) > 0).all()
    assert np.abs(expected[:, 58] - expected[:, 59]).max() > 0


def test_cells_of_several_data_sets_are_refused(fitted: Denoiser, adata: AnnData) -> None:
    cells = cells_of(adata, fitted.model)
    with pytest.raises(ValueError, match=r"these cells are of several\..*Cells\.of\(adata, model\.genes"):
        fitted.predict(cells.followed_by(cells, cells.measured), compute=CPU)


def test_blocks_do_not_matter(fitted: Denoiser, adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = predict(fitted, adata)
    monkeypatch.setattr("scfoundry.tasks.denoising.denoiser.CELLS_PER_BLOCK", 7)
    compute = Compute(torch.device("cpu"), batch_size=9)
    np.testing.assert_allclose(predict(fitted, adata, compute=compute), expected, rtol=1e-4, atol=1e-5)
