"""Responses are learned from what was measured alone, kept, and read of new lines and new drugs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from scfoundry._device import Compute
from scfoundry.data.genes import GeneVocabulary
from scfoundry.nn.checkpoint import CheckpointError
from scfoundry.tasks import DrugResponse
from scfoundry.tasks.drug_response.lines import Lines
from scfoundry.tasks.drug_response.sensitivity import draw_shots, left_out_probabilities

if TYPE_CHECKING:
    from pathlib import Path

CPU = Compute(torch.device("cpu"))
N_LINES, N_GENES = 60, 25
GENES = GeneVocabulary([f"gene{i}" for i in range(N_GENES)], species="other")
ALKYL = {f"alkyl{i}": "C" * (i + 2) + "O" for i in range(6)}
ARYL = {f"aryl{i}": "c1ccccc1" + "C" * i + "N" for i in range(6)}
SMILES = ALKYL | ARYL


@pytest.fixture(scope="module")
def lines() -> Lines:
    names = np.array([f"line{i:02d}" for i in range(N_LINES)])
    return Lines(names, {"expression": np.random.default_rng(0).normal(size=(N_LINES, N_GENES))}, {})


@pytest.fixture(scope="module")
def response(lines: Lines) -> pd.DataFrame:
    """Alcohols follow gene 0, amines gene 1; potency falls with length."""
    rng = np.random.default_rng(1)
    x = lines.blocks["expression"]
    values = {name: x[:, int(name in ARYL)] + int(name[-1]) + 0.2 * rng.normal(size=N_LINES) for name in SMILES}
    return pd.DataFrame(values, index=lines.names)


def fit(lines: Lines, response: pd.DataFrame, **how: Any) -> DrugResponse:
    given = {"smiles": SMILES, "columns": {}, "compute": CPU, "n_folds": 3} | how
    return DrugResponse.fit(None, GENES, lines, response, **given)


@pytest.fixture(scope="module")
def fitted(lines: Lines, response: pd.DataFrame) -> DrugResponse:
    return fit(lines, response.iloc[:45])


def test_new_lines_are_predicted_and_the_correlation_is_as_expected(
    fitted: DrugResponse, lines: Lines, response: pd.DataFrame
) -> None:
    new = lines.take(np.arange(45, 60))
    found = fitted.predict(new, compute=CPU)
    within = [np.corrcoef(found[drug], response.loc[new.names, drug])[0, 1] for drug in response]
    assert np.mean(within) > 0.8
    assert np.mean(fitted.expected["expected_pearson"]) == pytest.approx(np.mean(within), abs=0.15)
    assert (fitted.expected["n_lines"] == 45).all()


def test_new_drugs_follow_those_of_like_structure(lines: Lines, response: pd.DataFrame) -> None:
    known = response.drop(columns=["alkyl3", "aryl3"])
    fitted = fit(lines, known, split="cold_drug")
    found = fitted.predict(lines, response=known, smiles=SMILES, own=True, compute=CPU)
    x = lines.blocks["expression"]
    assert np.corrcoef(found["alkyl3"], x[:, 0])[0, 1] > 0.8
    assert np.corrcoef(found["aryl3"], x[:, 1])[0, 1] > 0.8


def test_what_is_measured_of_a_line_tells_of_the_other_drugs(lines: Lines, response: pd.DataFrame) -> None:
    # An effect of the line that no gene shows, on all amines.
    hidden = np.random.default_rng(3).normal(size=N_LINES)
    shifted = response + np.outer(hidden, [name in ARYL for name in response])
    fitted = fit(lines, shifted.iloc[:45])
    new, truth = lines.take(np.arange(45, 60)), shifted.iloc[45:]
    some = truth.assign(aryl5=np.nan)
    errors = [
        np.sqrt(np.mean((fitted.predict(new, response=given, compute=CPU)["aryl5"] - truth["aryl5"]) ** 2))
        for given in (None, some)
    ]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("encoder", ["morgan", "gin"])
def test_nothing_of_held_out_rows_reaches_the_fit(lines: Lines, response: pd.DataFrame, encoder: str) -> None:
    how = {"drug_encoder": encoder} | ({"max_epochs": 1, "batch_size": 256} if encoder == "gin" else {})
    train = response.copy()
    train.iloc[45:] = np.nan
    moved = {"expression": lines.blocks["expression"].copy()}
    moved["expression"][45:] = 1e3
    one, other = fit(lines, train, **how), fit(Lines(lines.names, moved, {}), train, **how)
    arrays, same = one.recipe.arrays(), other.recipe.arrays()
    assert arrays.keys() == same.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, same[name], err_msg=name)
    pd.testing.assert_frame_equal(one.expected, other.expected)


@pytest.mark.parametrize("split", ["warm", "cold_cell", "cold_tissue", "cold_drug"])
def test_inner_folds_never_see_what_they_predict(lines: Lines, response: pd.DataFrame, split: str) -> None:
    noise = pd.DataFrame(np.random.default_rng(4).normal(size=response.shape), response.index, response.columns)
    tissues = pd.Series([f"tissue{i % 5}" for i in range(N_LINES)], index=lines.names)
    found = fit(lines, noise, split=split, tissues=tissues if split == "cold_tissue" else None).expected
    # Below 0, as folds that lie high leave others that lie low.
    assert found["expected_pearson"].mean() < 0.1


def test_a_measured_pair_is_predicted_without_itself(lines: Lines) -> None:
    noise = pd.DataFrame(np.random.default_rng(5).normal(size=(N_LINES, 12)), lines.names, list(SMILES))
    learned = fit(lines, noise, n_folds=0).learned
    assert abs(np.corrcoef(learned.to_numpy().ravel(), noise.to_numpy().ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("encoder", ["morgan", "gin"])
def test_what_was_fitted_is_kept_to_the_bit(lines: Lines, response: pd.DataFrame, encoder: str, tmp_path: Path) -> None:
    how = {"drug_encoder": encoder} | ({"max_epochs": 1, "batch_size": 256} if encoder == "gin" else {})
    fitted, new = fit(lines, response.iloc[:45], **how), lines.take(np.arange(45, 60))
    fitted.save(tmp_path)
    again = DrugResponse.load(tmp_path)
    more = {"smiles": {"benzene": "c1ccccc1"}, "compute": CPU}
    pd.testing.assert_frame_equal(again.predict(new, **more), fitted.predict(new, **more))
    pd.testing.assert_frame_equal(again.expected, fitted.expected)
    assert not (tmp_path / "model").exists()
    (tmp_path / "fitted.npz").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        DrugResponse.load(tmp_path)


def test_the_network_learns_and_goes_on_where_it_was_interrupted(
    lines: Lines, response: pd.DataFrame, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"drug_encoder": "gin", "batch_size": 128}
    longer = fit(lines, response, max_epochs=3, **how)
    assert longer.recipe.history_["loss_train"].iloc[-1, 0] < longer.recipe.history_["loss_train"].iloc[0, 0]
    fit(lines, response, max_epochs=1, checkpoint_dir=tmp_path, **how)
    resumed = fit(lines, response, max_epochs=3, checkpoint_dir=tmp_path, **how)
    predicted = [one.predict(lines, compute=CPU) for one in (longer, resumed)]
    pd.testing.assert_frame_equal(*predicted)


def test_a_block_that_says_nothing_hardly_counts(lines: Lines, response: pd.DataFrame) -> None:
    noise = np.random.default_rng(6).normal(size=(N_LINES, 10))
    weights = fit(Lines(lines.names, lines.blocks | {"latent": noise}, {}), response).block_weights
    assert weights["latent"] < 0.1 * weights["expression"]


def test_shots_are_drawn_per_class() -> None:
    sensitive = np.arange(100) < 20
    rows = draw_shots(sensitive, np.arange(100), 0.05, 0)
    assert (sensitive[rows].sum(), len(rows)) == (1, 5)
    rows = draw_shots(sensitive, np.arange(100), 3, 0)
    assert (sensitive[rows].sum(), len(rows)) == (3, 6)


def test_cells_are_classified_without_themselves() -> None:
    rng = np.random.default_rng(7)
    sensitive = np.arange(60) % 2 == 0
    noise = rng.normal(size=(60, 30))
    chance = left_out_probabilities({"expression": noise}, sensitive, 0)[0]
    assert abs(chance[sensitive].mean() - chance[~sensitive].mean()) < 0.15
    told = left_out_probabilities({"expression": noise + 3 * sensitive[:, None]}, sensitive, 0)[0]
    assert ((told > 0.5) == sensitive).all()
    assert np.isnan(left_out_probabilities({"expression": noise[:3]}, np.array([True, False, False]), 0)[0]).all()
