"""Parts of CellPLM's prediction of perturbations: the replaced gene, the shrunken changes, the saved fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scfoundry as sf
from scfoundry.model.cellplm._replaced_genes import perturbed, shifts_of
from scfoundry.nn.counts import SparseCounts
from scfoundry.tasks.perturbation.conditions import Condition, Prior, choose_prior, kernels
from scfoundry.tasks.perturbation.responses import Responses
from scfoundry.tasks.perturbation.shrinkage import shrink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

KEYS: dict[str, Any] = {"perturbation_key": "guide", "control": "ctrl"}


def test_the_value_is_replaced_after_the_log_in_every_cell(make_adata: Callable[..., AnnData]) -> None:
    log = SparseCounts.from_csr(make_adata(20).X).log_normalised("cp10k")
    changed = perturbed(log, [3, 7], -100.0)
    dense = torch.zeros(20, 40)
    dense[log.rows, log.genes] = log.values
    dense[:, [3, 7]] = -100.0
    found = torch.zeros(20, 40)
    found[changed.rows, changed.genes] = changed.values
    torch.testing.assert_close(found, dense)
    assert len(changed.values) == len(torch.unique(changed.rows * 40 + changed.genes))
    torch.testing.assert_close(perturbed(log, [], -100.0).values, log.values)


def test_the_replacement_reaches_the_encoder_for_genes_nobody_measured(
    make_adata: Callable[..., AnnData], tiny_model: Callable[..., sf.model.CellPLM]
) -> None:
    adata = make_adata(20)
    adata.X = sparse.csr_matrix(adata.X.multiply(np.arange(40) != 5))
    module = tiny_model().module
    log = SparseCounts.from_csr(adata.X).log_normalised("cp10k")
    how: dict[str, Any] = {"device": torch.device("cpu"), "precision": "float32"}
    shifts = shifts_of(module, log, {"measured": 3, "unmeasured": 5}, -100.0, **how)
    assert np.linalg.norm(shifts["measured"]) > 1e-3
    assert np.linalg.norm(shifts["unmeasured"]) > 1e-3
    assert not np.allclose(shifts["measured"], shifts["unmeasured"])
    # A gene that is not there and stays so moves nothing; any other value does.
    np.testing.assert_allclose(shifts_of(module, log, {"unmeasured": 5}, 0.0, **how)["unmeasured"], 0, atol=1e-6)
    milder = shifts_of(module, log, {"unmeasured": 5}, -1.0, **how)["unmeasured"]
    assert not np.allclose(milder, shifts["unmeasured"])


def test_shrinkage_is_the_posterior_mean_of_its_model() -> None:
    rng = np.random.default_rng(0)
    n, genes = 12, 3000
    factors = rng.normal(size=(n, 4))
    between = factors @ factors.T
    noise = np.diag(rng.uniform(0.02, 0.1, n)) + 0.02
    responsive = rng.random(genes) < 0.3
    truth = factors @ rng.normal(scale=0.3, size=(4, genes)) * responsive
    changes = truth + np.linalg.cholesky(noise) @ rng.normal(size=(n, genes))
    guess = between @ shrink(between[None], np.ones((1, 1)), noise, changes).coefficients[0]
    best = 0.09 * between @ np.linalg.solve(0.09 * between + noise, changes)
    assert np.square(guess - truth).mean() < np.square(changes - truth).mean() / 3
    # It has to find out which genes respond, and still loses little against knowing their variance.
    assert np.square(guess - truth)[:, responsive].mean() < 1.15 * np.square(best - truth)[:, responsive].mean()
    assert np.square(guess[:, ~responsive]).mean() < np.square(changes[:, ~responsive]).mean() / 20


def test_noise_that_controls_share_is_no_change() -> None:
    rng = np.random.default_rng(1)
    n, genes = 15, 2000
    noise = np.eye(n) / 100 + 1 / 20
    control = rng.normal(scale=np.sqrt(1 / 20), size=genes)
    changes = rng.normal(scale=0.1, size=(n, genes)) - control
    found = shrink(np.eye(n)[None], np.ones((1, 1)), noise, changes)
    assert np.square(found.coefficients).mean() < np.square(changes).mean() / 50
    estimate = -found.residuals.sum(0) / 20
    assert np.corrcoef(estimate, control)[0, 1] > 0.9


def test_combinations_are_sums_and_groups_share() -> None:
    conditions = [Condition(parts, group) for group in ("B", "T") for parts in (("X",), ("Y",), ("X", "Y"))]
    common, own = kernels(conditions[:3], conditions[:3], Prior(several_parts=True, several_groups=False), {}, {})
    np.testing.assert_allclose(own, [[1, 0, 1], [0, 1, 1], [1, 1, 2]])
    np.testing.assert_allclose(common, [[1, 1, 2], [1, 1, 2], [2, 2, 4]])
    both = Prior(several_parts=True, several_groups=True)
    _, _, everywhere, here = kernels(conditions, conditions, both, {}, {})
    np.testing.assert_allclose(everywhere[:3, 3:], own)
    np.testing.assert_allclose(here[:3, 3:], 0)
    np.testing.assert_allclose(both.mixture.sum(1), 1)
    shifts = {"X": np.array([1.0, 0.0]), "Y": np.array([0.0, 1.0]), "Z": np.array([0.0, 1.1])}
    likeness = Prior(several_parts=True, several_groups=False, likeness=0.5)
    singles = [Condition((gene,), "B") for gene in "XYZ"]
    centre = np.mean(list(shifts.values()), axis=0)
    shifts = {gene: shift - centre for gene, shift in shifts.items()}
    _, alike = kernels(singles, singles, likeness, shifts, {})
    assert alike[1, 2] > 0.4 > 0 > alike[0, 1]
    assert np.linalg.eigvalsh(alike).min() > 0
    np.testing.assert_allclose(kernels(singles[:1], singles[1:], likeness, shifts, {})[1], alike[:1, 1:])


def test_asking_for_more_changes_nothing(
    tiny_model: Callable[..., sf.model.CellPLM], screen: AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    believed = Prior(several_parts=True, several_groups=True, likeness=0.7, reach=1.0)
    monkeypatch.setattr("scfoundry.tasks.perturbation.responses_model.choose_prior", lambda *_: believed)
    monkeypatch.setattr("scfoundry.tasks.perturbation.responses_model.LEAST_GROUPS", 1)
    screen.obs["type"] = np.repeat([f"type {i}" for i in range(4)], 30)
    how: dict[str, Any] = {"device": "cpu", "group_key": "type"}
    learned = screen[screen.obs["type"] != "type 3"]
    tiny_model().fit_perturbations(learned, **KEYS, **how).save_pretrained(tmp_path)
    fitted = sf.model.load_pretrained(tmp_path)
    a, b, *others = screen.var_names
    controls = screen[screen.obs["guide"] == "ctrl"]
    alone = fitted.predict_perturbations(controls, [f"{a}+{b}", others[5]], groups=["type 1", "type 3"], **how)
    more = fitted.predict_perturbations(controls, [others[9], f"{a}+{b}", others[5], others[7]], **how)
    np.testing.assert_allclose(more[alone.obs_names].X, alone.X, atol=1e-6)
    assert not np.allclose(alone.layers["change"][0], alone.layers["change"][1], atol=1e-4)
    known = controls[controls.obs["type"] == "type 1"]
    here = fitted.predict_perturbations(known, [others[5]], **how)
    np.testing.assert_allclose(here.X[0], more[f"{others[5]} | type 1"].X[0], atol=1e-6)


def test_a_trained_network_reads_the_same_controls_in_any_order_of_cells(
    tiny_model: Callable[..., sf.model.CellPLM], screen: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scfoundry.model.cellplm._fine_tune_perturbation.MOST_CONTROLS", 10)
    fitted = tiny_model().fit_perturbations(screen, **KEYS, fine_tune=True, max_epochs=1, device="cpu")
    controls = screen[screen.obs["guide"] == "ctrl"].copy()
    turned = controls[::-1].copy()
    gene = screen.var_names[2]
    expected, found = (fitted.predict_perturbations(cells, [gene], device="cpu").X for cells in (controls, turned))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("like_neighbours", [True, False])
def test_likeness_of_groups_is_believed_only_if_like_groups_respond_alike(*, like_neighbours: bool) -> None:
    rng = np.random.default_rng(2)
    places = np.repeat([0.0, 10.0], 5) + rng.normal(0, 0.1, 10)
    family = np.repeat([0, 1], 5) if like_neighbours else np.arange(10)
    responses = rng.normal(size=(10, 500))[family]
    conditions = [Condition(("drug",), f"group {i}") for i in range(10)]
    states = {f"group {i}": np.array([place / 10]) for i, place in enumerate(places)}
    noise = np.eye(10) / 50
    prior = choose_prior(conditions, noise, responses + rng.normal(0, 0.1, (10, 500)), {}, states, rng)
    assert (prior.reach > 0) == like_neighbours


def test_reversion_is_found_and_noise_alone_looks_like_none() -> None:
    rng = np.random.default_rng(3)
    conditions = [Condition(("drug",), f"group {i}") for i in range(6)]

    def reversion(spread_of_levels: float, slope: float) -> float:
        levels = 2 + rng.normal(0, spread_of_levels, (6, 2000))
        after = levels + slope * (levels - 2) + 0.5
        controls = levels + rng.normal(0, 0.1, levels.shape)
        return Responses(
            conditions=conditions,
            means=after + rng.normal(0, 0.1, levels.shape),
            n_cells=np.full(6, 100.0),
            controls={condition.group: controls[i] for i, condition in enumerate(conditions)},
            n_controls={condition.group: 100 for condition in conditions},
            spread=np.ones(2000),
        ).reversion()

    assert reversion(0.5, -0.4) == pytest.approx(-0.4, abs=0.03)
    assert reversion(0.5, 0.0) == pytest.approx(0.0, abs=0.03)
    assert reversion(0.0, 0.0) == 0.0


@pytest.mark.parametrize("slope", [0.0, -0.4, -1.0])
def test_noise_of_controls_is_gone_as_far_as_levels_are_forgotten(slope: float) -> None:
    rng = np.random.default_rng(4)
    n_genes, n_controls = 20_000, {"B": 20, "T": 50}
    conditions = [Condition((drug,), group) for drug in ("X", "Y") for group in n_controls]
    n_cells = np.array([10.0, 20.0, 30.0, 40.0])
    controls = {group: rng.normal(scale=n**-0.5, size=n_genes) for group, n in n_controls.items()}
    responses = Responses(
        conditions=conditions,
        means=rng.normal(scale=n_cells[:, None] ** -0.5, size=(4, n_genes)),
        n_cells=n_cells,
        controls=controls,
        n_controls=n_controls,
        spread=np.ones(n_genes),
    )
    left = responses.changes() - slope * np.array([controls[condition.group] for condition in conditions])
    np.testing.assert_allclose(left @ left.T / n_genes, responses.noise(slope), atol=3e-3)


@pytest.fixture
def screen(make_adata: Callable[..., AnnData]) -> AnnData:
    adata = make_adata(120)
    genes = adata.var_names
    adata.obs["guide"] = np.resize(["ctrl", "ctrl", genes[0], genes[1], f"{genes[0]}+{genes[2]}"], 120)
    return adata


@pytest.mark.parametrize("fine_tune", [False, True])
def test_a_fitted_model_is_saved_and_loaded(
    tiny_model: Callable[..., sf.model.CellPLM], screen: AnnData, tmp_path: Path, *, fine_tune: bool
) -> None:
    how = {"fine_tune": fine_tune, "max_epochs": 1, "device": "cpu", "group_key": "batch"}
    fitted = tiny_model().fit_perturbations(screen, **KEYS, **how)
    fitted.save_pretrained(tmp_path)
    loaded = sf.model.load_pretrained(tmp_path)
    controls = screen[screen.obs["guide"] == "ctrl"]
    names = [f"{screen.var_names[2]}+{screen.var_names[1]}", screen.var_names[9]]
    expected, found = (
        model.predict_perturbations(controls, names, group_key="batch", device="cpu") for model in (fitted, loaded)
    )
    np.testing.assert_array_equal(found.X, expected.X)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert found.obs_names.tolist() == [f"{name} | batch {i}" for i in range(2) for name in names]
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="learned no perturbations yet"):
        sf.model.load_pretrained(tmp_path).predict_perturbations(controls, names, group_key="batch")


def test_a_plain_model_says_what_it_lacks(
    tiny_model: Callable[..., sf.model.CellPLM], screen: AnnData, tmp_path: Path
) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"learned no perturbations yet: fitted = model.fit_perturbations"):
        model.predict_perturbations(screen, ["KLF1"])
    fitted = model.fit_perturbations(screen, **KEYS, device="cpu")
    assert model._responses is None
    with pytest.raises(ValueError, match="adata lacks 10 of the 40 genes"):
        fitted.predict_perturbations(screen[:, :30], [screen.var_names[0]])
    with pytest.raises(ValueError, match=r"'ctrl\+ctrl' is the control, which predictions start from"):
        fitted.predict_perturbations(screen, [screen.var_names[0], "ctrl+ctrl"])
    with pytest.raises(ValueError, match="no cells of 'T'"):
        fitted.predict_perturbations(screen, [screen.var_names[0]], group_key="batch", groups=["T"])
    screen.obs["guide"] = np.resize(["ctrl", "drug"], 120)
    with pytest.raises(ValueError, match=r"0 of the perturbations .* are such, and two are needed"):
        model.fit_perturbations(screen, **KEYS, fine_tune=True)
    screen.obs["kind"] = screen.obs["guide"]
    with pytest.raises(ValueError, match="group 'drug' has perturbed cells but no control"):
        model.fit_perturbations(screen, **KEYS, group_key="kind")
