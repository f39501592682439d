from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import sparse, stats

import scfoundry as sf
from scfoundry.tasks.denoising.expectation import Expectation, expected_given_detection, hold_out

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

QUICK: dict[str, Any] = {"max_epochs": 3, "device": "cpu"}


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata(80)


@pytest.fixture
def model(tiny_model: Callable[..., sf.model.CellPLM]) -> sf.model.CellPLM:
    return tiny_model()


@pytest.fixture(scope="module")
def fitted_once(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    adata = make_adata(80)
    structure = {"n_hidden": 32, "n_layers": 1, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}
    return sf.model.CellPLM(genes=adata.var_names, **structure).fit_denoiser(adata, **QUICK)


@pytest.fixture
def fitted(fitted_once: sf.model.CellPLM) -> sf.model.CellPLM:
    fitted_once._change_config(neighbor_weight=0.3)
    return fitted_once


def tensors(model: sf.model.CellPLM) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


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


def test_nearest_cells_leave_out_the_cell_itself_and_empty_cells(model: sf.model.CellPLM) -> None:
    latent = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    counts = sparse.csr_matrix(np.array([[4, 0], [1, 3], [0, 0], [0, 5]], dtype=np.float32))
    expectation = Expectation(model.module, latent, counts, torch.tensor([0, 1]), 1.0)
    shares = expectation.by_neighbors(np.array([0, 2]))
    np.testing.assert_allclose(shares[0], [0.125, 0.875])
    # Three cells are left and two of them may be neighbours: of cell 2 the nearest ones.
    np.testing.assert_allclose(shares[1], [0.625, 0.375])


def test_a_cell_that_is_alone_has_the_decoder(model: sf.model.CellPLM, adata: AnnData) -> None:
    adata.obs["sample"] = ["one", *["other"] * (adata.n_obs - 1)]
    how: dict[str, Any] = {"batch_key": "sample", "device": "cpu"}
    fitted = model.fit_denoiser(adata, max_epochs=1, **how)
    fitted._change_config(neighbor_weight=0.0)
    decoded = fitted.denoise(adata, **how)
    fitted._change_config(neighbor_weight=1.0)
    np.testing.assert_allclose(fitted.denoise(adata, **how)[0], decoded[0], rtol=1e-6)


def test_fitting_changes_a_copy(model: sf.model.CellPLM, adata: AnnData) -> None:
    before, cells = tensors(model), adata.copy()
    fitted = model.fit_denoiser(adata, **QUICK)
    assert fitted is not model
    for name, tensor in model.module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert not torch.equal(fitted.module.decoder.mean.bias, before["decoder.mean.bias"])
    assert model.config.neighbor_weight == 0
    assert (adata.X != cells.X).nnz == 0
    assert fitted.validation_ is not None
    assert fitted.validation_["neighbor_weight"] == fitted.config.neighbor_weight
    assert fitted.validation_["epochs"] == 3


def test_the_seed_decides(model: sf.model.CellPLM, adata: AnnData) -> None:
    first, same, other = (model.fit_denoiser(adata, seed=seed, **QUICK).denoise(adata) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 0


def test_fitting_recovers_hidden_counts_better_than_constants(make_adata: Callable[..., AnnData]) -> None:
    adata = make_adata(200, 60)
    sf.pp.simulate_dropout(adata)
    model = sf.model.CellPLM(genes=adata.var_names, n_hidden=32, n_layers=1, n_latent=8, n_decoder_hidden=16)
    fitted = model.fit_denoiser(adata, layer="train", max_epochs=15, device="cpu")
    truth, mask = adata.X, adata.layers["test_mask"]
    given = fitted.denoise(adata, layer="train", given_detected=True, device="cpu")
    scores = sf.metrics.denoising(truth, given, mask, given_detected=True)["rmse"]
    assert scores["predicted"] < scores["count of 1"]
    scores = sf.metrics.denoising(truth, fitted.denoise(adata, layer="train", device="cpu"), mask)["pearson_all"]
    assert scores["predicted"] > scores["gene mean"]
    assert fitted.validation_ is not None
    assert fitted.validation_["rmse_given_detected"] < fitted.validation_["rmse_given_detected_count_of_one"]


def test_a_fitted_denoiser_is_saved_and_loaded(fitted: sf.model.CellPLM, adata: AnnData, tmp_path: Path) -> None:
    expected = fitted.denoise(adata, device="cpu")
    fitted.save_pretrained(tmp_path / "weights")
    loaded = sf.model.CellPLM.from_pretrained(tmp_path / "weights")
    np.testing.assert_array_equal(loaded.denoise(adata, device="cpu"), expected)
    fitted.save(tmp_path / "model")
    again = sf.model.CellPLM.load(tmp_path / "model", adata=None)
    np.testing.assert_array_equal(again.denoise(adata, device="cpu"), expected)


def test_expected_counts_sum_to_the_depth_of_the_cell(fitted: sf.model.CellPLM, adata: AnnData) -> None:
    for weight in (0.0, 0.4, 1.0):
        fitted._change_config(neighbor_weight=weight)
        expected = fitted.denoise(adata, device="cpu")
        np.testing.assert_allclose(expected.sum(1), np.asarray(adata.X.sum(1)).ravel(), rtol=1e-4)
        assert expected.min() >= 0


def test_columns_are_those_of_the_whole(fitted: sf.model.CellPLM, adata: AnnData) -> None:
    columns = [7, 2, 31]
    np.testing.assert_allclose(
        fitted.denoise(adata, columns=columns, device="cpu"),
        fitted.denoise(adata, device="cpu")[:, columns],
        rtol=1e-6,
    )


def test_columns_of_one_gene_share_its_expectation(fitted: sf.model.CellPLM, adata: AnnData) -> None:
    versions = adata[:, [*range(adata.n_vars), 3]].copy()
    names = adata.var_names.tolist()
    versions.var_names = [*names[:3], f"{names[3]}.1", *names[4:], f"{names[3]}.2"]
    counts = adata.X.toarray()
    versions.X = sparse.csr_matrix(np.hstack([counts, np.zeros_like(counts[:, :1])]))
    assert fitted.genes.align(versions).target[-1] == 3
    expected, shared = fitted.denoise(adata, device="cpu"), fitted.denoise(versions, device="cpu")
    np.testing.assert_allclose(shared[:, -1], expected[:, 3] / 2, rtol=1e-5)
    np.testing.assert_allclose(shared[:, 3], expected[:, 3] / 2, rtol=1e-5)
    np.testing.assert_allclose(shared[:, :3], expected[:, :3], rtol=1e-5)


def test_blocks_do_not_matter(fitted: sf.model.CellPLM, adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fitted.denoise(adata, device="cpu")
    monkeypatch.setattr("scfoundry.tasks.denoising.denoiser.CELLS_PER_BLOCK", 7)
    np.testing.assert_allclose(fitted.denoise(adata, batch_size=9, device="cpu"), expected, rtol=1e-4, atol=1e-5)


def test_a_large_pool_is_drawn_from(fitted: sf.model.CellPLM, adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scfoundry.tasks.denoising.expectation.MAX_POOL", 20)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    expected, moved = (fitted.denoise(cells, device="cpu") for cells in (adata, shuffled))
    np.testing.assert_allclose(moved, expected[adata.obs_names.get_indexer(shuffled.obs_names)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("latent", ["vae", "gmvae", "ae"])
def test_every_latent_learns(tiny_model: Callable[..., sf.model.CellPLM], adata: AnnData, latent: str) -> None:
    fitted = tiny_model(latent=latent).fit_denoiser(adata, max_epochs=1, batch_key="batch", device="cpu")
    assert np.isfinite(fitted.denoise(adata, batch_key="batch", device="cpu")).all()


def test_decoders_of_log_expression_are_refused(tiny_model: Callable[..., sf.model.CellPLM], adata: AnnData) -> None:
    model = tiny_model(likelihood="mse")
    for ask in (model.fit_denoiser, model.denoise):
        with pytest.raises(ValueError, match=r'trained on log expression \(likelihood="mse"\).*model="cellplm"'):
            ask(adata)


def test_nothing_to_hide_is_refused(model: sf.model.CellPLM, adata: AnnData) -> None:
    adata.X = sparse.csr_matrix(np.eye(*adata.shape, dtype=np.float32) * 3)
    with pytest.raises(ValueError, match=r"None of the 80 cells expresses enough genes.*fine_tune=False"):
        model.fit_denoiser(adata)
