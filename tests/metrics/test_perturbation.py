"""Scores of predicted responses: what is perfect, what is nothing, and what shared controls would fake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable

N_GENES = 60


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def control(rng: np.random.Generator) -> np.ndarray:
    return rng.gamma(1.0, size=N_GENES)


def draw(mean: np.ndarray, rng: np.random.Generator, n: int = 50) -> np.ndarray:
    return np.abs(rng.normal(mean, 0.5, (n, len(mean))))


def test_by_hand(rng: np.random.Generator) -> None:
    cells = np.tile([1.0, 2.0, 0.0, 4.0], (4, 1))
    controls = np.tile([1.0, 1.0, 0.0, 1.0], (4, 1))
    scores = sf.metrics.perturbation(cells, controls, [1.0, 2.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0], n_top=2)
    assert scores["rmse"] == pytest.approx(np.sqrt((1 + 4) / 4))
    assert scores["rmse_nonzero"] == pytest.approx(np.sqrt(4 / 3))
    assert scores["rmse_top"] == pytest.approx(np.sqrt(4 / 2))
    assert scores["pearson_delta"] == pytest.approx(np.corrcoef([0, 1, 0, 3], [0, 1, 0, 1])[0, 1])


def test_no_change_has_an_error_but_no_correlation(control: np.ndarray, rng: np.random.Generator) -> None:
    scores = sf.metrics.perturbation(draw(control, rng), draw(control, rng), control, control)
    assert np.isnan(scores["pearson_delta"])
    assert np.isnan(scores["pearson_delta_top"])
    assert scores["rmse"] > 0


def test_controls_shared_by_truth_and_prediction_would_fake_a_signal(
    control: np.ndarray, rng: np.random.Generator
) -> None:
    others, seen, unseen = draw(control, rng), draw(control, rng), draw(control, rng)
    nothing = draw(control, rng)
    guess = others.mean(0)
    assert sf.metrics.perturbation(nothing, seen, guess, seen.mean(0))["pearson_delta"] > 0.3
    assert abs(sf.metrics.perturbation(nothing, unseen, guess, seen.mean(0))["pearson_delta"]) < 0.3


def test_the_ceiling_is_high_where_there_is_an_effect_and_near_zero_where_not(
    control: np.ndarray, rng: np.random.Generator
) -> None:
    effect = rng.normal(0, 1, N_GENES)
    seen, unseen = draw(control, rng), draw(control, rng)
    strong = sf.metrics.perturbation(draw(control + effect, rng), unseen, control, seen.mean(0))
    none = sf.metrics.perturbation(draw(control, rng), unseen, control, seen.mean(0))
    assert strong["ceiling"] > 0.9
    assert none["ceiling"] < 0.6


def test_the_ceiling_is_what_a_prediction_without_error_has(control: np.ndarray, rng: np.random.Generator) -> None:
    effect = rng.normal(0, 0.1, N_GENES)
    scores = [
        sf.metrics.perturbation(
            rng.normal(control + effect, 0.5, (50, N_GENES)),
            rng.normal(control, 0.5, (50, N_GENES)),
            control + effect,
            control,
        )
        for _ in range(40)
    ]
    found = pd.DataFrame(scores)[["ceiling", "pearson_delta"]].mean()
    assert 0.5 < found["pearson_delta"] < 0.85, "there is noise to speak of"
    assert found["ceiling"] == pytest.approx(found["pearson_delta"], abs=0.03)


def test_the_ceiling_does_not_depend_on_the_prediction(control: np.ndarray, rng: np.random.Generator) -> None:
    cells, controls = draw(control + rng.normal(0, 0.2, N_GENES), rng), draw(control, rng)
    first = sf.metrics.perturbation(cells, controls, control, control)
    second = sf.metrics.perturbation(cells, controls, cells.mean(0), cells.mean(0) - 1)
    assert first["ceiling"] == second["ceiling"]
    assert np.isnan(sf.metrics.perturbation(cells, controls, control, control, n_halves=0)["ceiling"])


def test_blocks_of_cells_give_the_same_scores(
    control: np.ndarray, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, controls = draw(control, rng), draw(control, rng)
    expected = sf.metrics.perturbation(cells, controls, control + 1, control)
    monkeypatch.setattr("scfoundry.metrics._matrices._BLOCK_VALUES", 7 * N_GENES)
    pd.testing.assert_series_equal(sf.metrics.perturbation(cells, controls, control + 1, control), expected)


def test_the_array_type_does_not_matter(control: np.ndarray, rng: np.random.Generator, as_array: Callable) -> None:
    cells, controls = draw(control, rng), draw(control, rng)
    cells[cells < 0.5] = 0
    expected = sf.metrics.perturbation(cells, controls, control + 1, control)
    pd.testing.assert_series_equal(
        sf.metrics.perturbation(as_array(cells), as_array(controls), control + 1, control), expected
    )


def test_named_genes_are_matched_by_name(control: np.ndarray, rng: np.random.Generator) -> None:
    genes = [f"g{i}" for i in range(N_GENES)]
    cells, controls = (pd.DataFrame(draw(control, rng), columns=genes) for _ in range(2))
    guess, start = pd.Series(control + 1, genes), pd.Series(control, genes)
    expected = sf.metrics.perturbation(cells.to_numpy(), controls.to_numpy(), guess.to_numpy(), start.to_numpy())
    found = sf.metrics.perturbation(cells, controls[genes[::-1]], guess.sample(frac=1, random_state=0), start[::-1])
    pd.testing.assert_series_equal(found, expected)
    with pytest.raises(ValueError, match="predicted lacks 1 of the 60 genes of cells: g0"):
        sf.metrics.perturbation(cells, controls, guess[1:], start)


def test_bad_input_is_named(control: np.ndarray, rng: np.random.Generator) -> None:
    cells, controls = draw(control, rng), draw(control, rng)
    with pytest.raises(ValueError, match=r"cells has shape \(3, 60\).*at least 4 cells"):
        sf.metrics.perturbation(cells[:3], controls, control, control)
    with pytest.raises(ValueError, match=r"predicted has shape \(59,\).* each of the 60 genes of cells"):
        sf.metrics.perturbation(cells, controls, control[1:], control)
    with pytest.raises(ValueError, match=r"predicted has shape \(1, 60\).*take the row: predicted\[0\]"):
        sf.metrics.perturbation(cells, controls, control[None], control)
    with pytest.raises(ValueError, match="controls has 59 values per cell, but cells has 60 genes"):
        sf.metrics.perturbation(cells, controls[:, 1:], control, control)
    for n_top in (0, -3, 2.5):
        with pytest.raises(ValueError, match="n_top must be a whole number of genes, at least 1"):
            sf.metrics.perturbation(cells, controls, control, control, n_top=n_top)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_halves must be a whole number"):
        sf.metrics.perturbation(cells, controls, control, control, n_halves=-1)
    repeated = pd.DataFrame(cells, columns=["g0"] * 2 + [f"g{i}" for i in range(2, N_GENES)])
    with pytest.raises(ValueError, match="1 gene names occur more than once in cells, for example 'g0'"):
        sf.metrics.perturbation(repeated, controls, control, control)
    with pytest.raises(ValueError, match="predicted_control holds missing"):
        sf.metrics.perturbation(cells, controls, control, np.where(control > 1, np.nan, control))
    cells[0, 0] = np.nan
    with pytest.raises(ValueError, match="cells holds missing or infinite values"):
        sf.metrics.perturbation(cells, controls, control, control)
