"""What is left out shares no pair, line, tissue or drug with what is learned from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scfoundry as sf

LINES, DRUGS = [f"line{i}" for i in range(30)], [f"drug{i}" for i in range(12)]
TISSUES = pd.Series([f"tissue{i % 6}" for i in range(30)], index=LINES)


@pytest.fixture
def response() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 12))
    values[rng.random(values.shape) < 0.2] = np.nan
    return pd.DataFrame(values, index=LINES, columns=DRUGS)


@pytest.mark.parametrize("split", ["warm", "cold_cell", "cold_tissue", "cold_drug"])
def test_parts_hold_every_measured_pair_once_and_share_no_unit(response: pd.DataFrame, split: str) -> None:
    how = {"tissues": TISSUES} if split == "cold_tissue" else {}
    parts = sf.pp.split_drug_response(response, split, test=0.2, **how)
    assert (sum(part.astype(int) for part in parts) == response.notna()).all(axis=None)
    assert all(part.any(axis=None) for part in parts)
    unit = {
        "warm": lambda part: set(part.stack()[lambda shown: shown].index),
        "cold_cell": lambda part: set(part.index[part.any(axis=1)]),
        "cold_tissue": lambda part: set(TISSUES[part.any(axis=1)]),
        "cold_drug": lambda part: set(part.columns[part.any()]),
    }[split]
    train, valid, test = map(unit, parts)
    assert not train & valid | train & test | valid & test
    n = {"warm": int(response.notna().sum().sum()), "cold_cell": 30, "cold_tissue": 6, "cold_drug": 12}[split]
    assert len(test) == round(0.2 * n)


def test_order_plays_no_part_and_the_seed_does(response: pd.DataFrame) -> None:
    moved = response.iloc[::-1, ::-1]
    for split in ("warm", "cold_cell", "cold_drug"):
        one, other = sf.pp.split_drug_response(response, split), sf.pp.split_drug_response(moved, split)
        pd.testing.assert_frame_equal(one.test, other.test.loc[LINES, DRUGS])
    assert not sf.pp.split_drug_response(response, rng=1).test.equals(sf.pp.split_drug_response(response).test)


def test_no_validation_if_none_is_asked(response: pd.DataFrame) -> None:
    assert not sf.pp.split_drug_response(response, valid=0).valid.any(axis=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "cold"}, "split must be one of 'warm'"),
        ({"test": 1.5}, "must be shares"),
        ({"split": "cold_tissue"}, r'tissues=adata.obs\["tissue"\]'),
        ({"tissues": TISSUES}, "nothing else does"),
        ({"split": "cold_tissue", "tissues": TISSUES[:20]}, "10 lines have no tissue"),
        ({"test": 0.6, "valid": 0.4}, "leave nothing to learn from"),
    ],
)
def test_what_cannot_be_split_is_refused(response: pd.DataFrame, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sf.pp.split_drug_response(response, **arguments)


def test_tables_that_say_nothing_are_refused(response: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="No response is measured"):
        sf.pp.split_drug_response(response * np.nan)
    with pytest.raises(ValueError, match="'line0' occurs twice"):
        sf.pp.split_drug_response(pd.concat([response, response[:1]]))
    with pytest.raises(ValueError, match="response must be a DataFrame; got a ndarray"):
        sf.pp.split_drug_response(response.to_numpy())
