"""What perturbations change: shrunken changes, likeness, and what a fitted object keeps of it, for any model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.perturbations import Naming
from scfoundry.tasks.perturbation.conditions import Condition, Prior, choose_prior, kernels
from scfoundry.tasks.perturbation.measured import MeasuredResponses
from scfoundry.tasks.perturbation.replaced_genes import gene_shifts
from scfoundry.tasks.perturbation.shrinkage import shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anndata import AnnData

CPU = Compute(torch.device("cpu"), "float32")


@pytest.fixture
def tiny_cellplm(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    """An untrained CellPLM over the genes of `make_adata`."""
    structure = {"n_hidden": 32, "n_layers": 2, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}
    return sf.model.CellPLM(genes=make_adata().var_names, **structure)


@pytest.fixture
def screen(make_adata: Callable[..., AnnData]) -> AnnData:
    adata = make_adata(120)
    genes = adata.var_names
    adata.obs["guide"] = np.resize(["ctrl", "ctrl", genes[0], genes[1], f"{genes[0]}+{genes[2]}"], 120)
    return adata


def fit(model: Any, adata: AnnData, group_key: str | None = None, **how: Any) -> sf.tasks.Responses:
    """Learn from a screen; cells without a guide are left out."""
    naming = Naming("guide", "ctrl", group_key)
    groups = adata.obs[group_key] if group_key else np.repeat("all", adata.n_obs)
    conditions = [
        None if pd.isna(guide) else Condition(tuple(sorted(set(guide.split("+")) - {"ctrl"})), str(group))
        for guide, group in zip(adata.obs["guide"], groups, strict=True)
    ]
    cells = Cells.of(adata, model.genes, caller="test")
    return sf.tasks.Responses.fit(model, cells, conditions, naming, **how, compute=CPU)


def predict(
    fitted: sf.tasks.Responses,
    adata: AnnData,
    names: Sequence[str],
    group_key: str | None = None,
    groups: Sequence[str] | None = None,
) -> AnnData:
    """Predict from the controls of a screen."""
    adata = adata[(adata.obs["guide"] == "ctrl").to_numpy()]
    cells = Cells.of(adata, fitted.model.genes, caller="test")
    group_of = adata.obs[group_key].tolist() if group_key else ["all"] * adata.n_obs
    return fitted.predict(cells, names, group_of=group_of, groups=groups, compute=CPU)


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


@pytest.mark.parametrize("like_neighbours", [True, False])
def test_likeness_of_groups_counts_only_if_like_groups_respond_alike(*, like_neighbours: bool) -> None:
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
        return MeasuredResponses(
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
    responses = MeasuredResponses(
        conditions=conditions,
        means=rng.normal(scale=n_cells[:, None] ** -0.5, size=(4, n_genes)),
        n_cells=n_cells,
        controls=controls,
        n_controls=n_controls,
        spread=np.ones(n_genes),
    )
    left = responses.changes() - slope * np.array([controls[condition.group] for condition in conditions])
    np.testing.assert_allclose(left @ left.T / n_genes, responses.noise(slope), atol=3e-3)


@pytest.mark.parametrize("fine_tune", [False, True])
def test_what_was_learned_is_saved_and_predicts_bit_for_bit_the_same(
    tiny_cellplm: sf.model.CellPLM, screen: AnnData, tmp_path: Path, *, fine_tune: bool
) -> None:
    fitted = fit(tiny_cellplm, screen, "batch", fine_tune=fine_tune, max_epochs=1 if fine_tune else None)
    fitted.save(tmp_path)
    loaded = sf.tasks.Responses.load(tmp_path)
    names = [f"{screen.var_names[2]}+{screen.var_names[1]}", screen.var_names[9]]
    expected, found = (predict(one, screen, names, "batch") for one in (fitted, loaded))
    np.testing.assert_array_equal(found.X, expected.X)
    np.testing.assert_array_equal(found.layers["change"], expected.layers["change"])
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert found.uns == expected.uns
    assert found.obs_names.tolist() == [f"{name} | batch {i}" for i in range(2) for name in names]
    assert loaded.fine_tuned == fine_tune
    assert loaded.learned.naming == fitted.learned.naming
    loaded.save(tmp_path / "again")
    again = sf.tasks.Responses.load(tmp_path / "again")
    np.testing.assert_array_equal(predict(again, screen, names, "batch").X, expected.X)


def test_the_model_stays_as_it_is_and_its_folder_holds_nothing_of_the_task(
    tiny_cellplm: sf.model.CellPLM, screen: AnnData, tmp_path: Path
) -> None:
    before = {name: weight.clone() for name, weight in tiny_cellplm.module.state_dict().items()}
    fitted = fit(tiny_cellplm, screen, fine_tune=True, max_epochs=1)
    assert all((weight == before[name]).all() for name, weight in tiny_cellplm.module.state_dict().items())
    assert fitted.model.module.state_dict().keys() == before.keys()
    fitted.save(tmp_path)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "genes.tsv", "README.md"}
    assert {path.name for path in tmp_path.iterdir()} == {"fitted.json", "fitted.npz", "model"}


def test_likeness_counts_and_asking_for_more_changes_nothing(
    tiny_cellplm: sf.model.CellPLM, screen: AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    likely = Prior(several_parts=True, several_groups=True, likeness=0.7, reach=1.0)
    monkeypatch.setattr("scfoundry.tasks.perturbation.learned.choose_prior", lambda *_: likely)
    monkeypatch.setattr("scfoundry.tasks.perturbation.responses.LEAST_GROUPS", 1)
    screen.obs["type"] = np.repeat([f"type {i}" for i in range(4)], 30)
    fit(tiny_cellplm, screen[screen.obs["type"] != "type 3"], "type").save(tmp_path)
    fitted = sf.tasks.Responses.load(tmp_path)
    a, b, *others = screen.var_names
    alone = predict(fitted, screen, [f"{a}+{b}", others[5]], "type", ["type 1", "type 3"])
    more = predict(fitted, screen, [others[9], f"{a}+{b}", others[5], others[7]], "type")
    np.testing.assert_allclose(more[alone.obs_names].X, alone.X, atol=1e-6)
    assert not np.allclose(alone.layers["change"][0], alone.layers["change"][1], atol=1e-4)
    here = predict(fitted, screen[screen.obs["type"] == "type 1"], [others[5]], "type")
    np.testing.assert_allclose(here.X[0], more[f"{others[5]} | type 1"].X[0], atol=1e-6)


@pytest.mark.parametrize("fine_tune", [False, True])
def test_the_order_of_cells_plays_no_part(
    tiny_cellplm: sf.model.CellPLM, screen: AnnData, monkeypatch: pytest.MonkeyPatch, *, fine_tune: bool
) -> None:
    monkeypatch.setattr("scfoundry.tasks.perturbation.responses.MOST_CONTROLS", 10)
    monkeypatch.setattr("scfoundry.tasks.perturbation.responses.LEAST_GROUPS", 1)
    how = {"fine_tune": fine_tune, "max_epochs": 1 if fine_tune else None}
    gene, turned = screen.var_names[2], screen[::-1].copy()
    expected, found = (
        predict(fit(tiny_cellplm, adata, "batch", **how), adata, [gene], "batch") for adata in (screen, turned)
    )
    np.testing.assert_allclose(found.X, expected.X, atol=1e-6)


def test_data_with_more_genes_in_another_order_are_read_by_name(
    tiny_cellplm: sf.model.CellPLM, screen: AnnData
) -> None:
    few = screen[:, :30].copy()
    fitted = fit(tiny_cellplm, few)
    names = [screen.var_names[2]]
    more = screen[:, np.random.default_rng(0).permutation(40)].copy()
    found = predict(fitted, more, names)
    assert found.var_names.equals(few.var_names)
    np.testing.assert_allclose(found.X, predict(fitted, few, names).X, atol=1e-6)


def test_a_model_that_only_embeds_is_asked_without_the_counts_of_a_gene(
    small_model: Any, screen: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen.X = sparse.csr_matrix(screen.X.multiply(np.arange(40) != 5))
    cells = Cells.of(screen, small_model.genes, caller="test")
    shifts = gene_shifts(small_model, cells, {"a": 3, "nowhere expressed": 5}, -100.0, CPU)
    without = cells.with_counts(sparse.csr_matrix(cells.read().multiply(np.arange(len(small_model.genes)) != 3)))
    expected = (small_model.embed(without, CPU) - small_model.embed(cells, CPU)).mean(0)
    assert list(shifts) == ["a"]
    np.testing.assert_allclose(shifts["a"], expected, atol=1e-5)

    likely = Prior(several_parts=True, several_groups=False, likeness=0.7)
    monkeypatch.setattr("scfoundry.tasks.perturbation.learned.choose_prior", lambda *_: likely)
    fitted = fit(small_model, screen)
    found = predict(fitted, screen, [screen.var_names[7], screen.var_names[9], screen.var_names[5]])
    assert np.isfinite(found.X).all()
    assert not np.allclose(found.layers["change"][0], found.layers["change"][1], atol=1e-4)
    assert fitted.replacement == "counts of 0"


def test_it_says_what_it_lacks(
    tiny_cellplm: sf.model.CellPLM, small_model: Any, screen: AnnData, tmp_path: Path
) -> None:
    fitted = fit(tiny_cellplm, screen)
    assert fitted.replacement == "log expression of -100"
    with pytest.raises(ValueError, match="adata lacks 10 of the 40 genes"):
        predict(fitted, screen[:, :30], [screen.var_names[0]])
    with pytest.raises(ValueError, match=r"'ctrl\+ctrl' is the control, which predictions start from"):
        predict(fitted, screen, [screen.var_names[0], "ctrl+ctrl"])
    with pytest.raises(ValueError, match="no control cells of 'T'"):
        predict(fitted, screen, [screen.var_names[0]], "batch", ["T"])
    with pytest.raises(ValueError, match=r"SmallModel, which has no published training .*model=\"cellplm\""):
        fit(small_model, screen, fine_tune=True)
    with pytest.raises(FileNotFoundError, match=r"not written by Responses\.save"):
        sf.tasks.Responses.load(tmp_path)
    screen.obs["guide"] = np.resize(["ctrl", "drug"], 120)
    with pytest.raises(ValueError, match=r"0 of the perturbations .* are such, and two are needed"):
        fit(tiny_cellplm, screen, fine_tune=True)
    screen.obs["kind"] = screen.obs["guide"]
    with pytest.raises(ValueError, match="group 'drug' has perturbed cells but no control"):
        fit(tiny_cellplm, screen, "kind")
