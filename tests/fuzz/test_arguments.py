"""Every argument of every public verb, of every wrong type: refused by its name before anything is done."""

from __future__ import annotations

import collections.abc
import inspect
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

import scfoundry as sf
from scfoundry._arguments import RULES, Count, Share, Size, fits, hints_of, quoted, shown

PUBLIC = {f"{room.__name__}.{name}": getattr(room, name) for room in (sf.tl, sf.pp) for name in room.__all__}
FACE = {name: function for name, function in PUBLIC.items() if inspect.isfunction(function)}
WRONG = {
    "None": None,
    "a truth": True,
    "a fraction": 1.5,
    "not a number": float("nan"),
    "text": "nonsense",
    "a list": ["x", 5],
    "a dictionary": {"a": 5},
    "a table": pd.DataFrame({"x": [1]}),
    "a thing": object(),
}


def example(hint: Any) -> Any:
    """A value that a hint allows."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType, Annotated):
        return example(parts[0])
    if origin is Literal:
        return parts[0]
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return {}
    if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
        return ["x"]
    plain = {str: "x", int: 1, float: 0.5, bool: True, AnnData: AnnData(np.ones((2, 2))), Path: Path("x")}
    return plain[hint] if hint in plain else pd.DataFrame() if hint is pd.DataFrame else None


def arguments() -> dict[str, tuple[Any, str, Any]]:
    """Every argument with everything that its hint does not allow."""
    found = {}
    for caller, verb in FACE.items():
        for name, hint in hints_of(inspect.unwrap(verb)).items():
            for what, value in WRONG.items():
                if not fits(value, hint):
                    found[f"{caller}({name}={what})"] = (verb, name, value)
    return found


ARGUMENTS = arguments()


def required(verb: Any) -> dict[str, Any]:
    hints = hints_of(inspect.unwrap(verb))
    parameters = inspect.signature(verb).parameters.values()
    return {p.name: example(hints[p.name]) for p in parameters if p.default is inspect.Parameter.empty}


def test_there_are_hints_for_all_arguments_and_many_wrong_ones():
    assert all(len(hints_of(inspect.unwrap(verb))) == len(inspect.signature(verb).parameters) for verb in FACE.values())
    assert len(ARGUMENTS) > 1000


@pytest.mark.parametrize("caller", FACE)
def test_wrong_types_are_refused_with_what_was_found_and_expected(caller):
    verb = FACE[caller]
    short = caller.replace("scfoundry", "sf")
    for key, (_, name, value) in ARGUMENTS.items():
        if not key.startswith(f"{caller}("):
            continue
        with pytest.raises(
            ValueError, match=rf"^{short}: {name} must be .+; got .+\. (Default: {name}=|Pass a list: |See help)"
        ):
            verb(**required(verb) | {name: value})


@pytest.mark.parametrize("caller", FACE)
def test_arguments_that_there_are_not_are_refused_by_naming_those_there_are(caller):
    verb = FACE[caller]
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'nonsense'.*Leave it out, or pass one of: "):
        verb(**required(verb), nonsense=1)


@pytest.mark.parametrize("name", ["rng", "batch_size", "max_epochs", "key_added"])
def test_what_is_out_of_range_is_refused_wherever_there_is_such_an_argument(name):
    out = {"rng": -1, "batch_size": 0, "max_epochs": 0, "key_added": "a/b"}[name]
    verbs = [verb for verb in FACE.values() if name in inspect.signature(verb).parameters]
    assert len(verbs) > 2
    for verb in verbs:
        with pytest.raises(ValueError, match=rf"{name} must be {RULES[name][1]}; got"):
            verb(**required(verb) | {name: out})


def test_a_method_is_called_by_the_class_that_it_was_called_on():
    model = sf.model.LangCell(genes=["CD3E", "GAPDH"], n_hidden=8, n_layers=1, n_heads=2, n_intermediate=8)
    with pytest.raises(ValueError, match=r"^sf\.model\.LangCell\.train: lr must be"):
        model.train(lr=-1)
    with pytest.raises(ValueError, match=r"^sf\.model\.LangCell\.setup_anndata: adata must be"):
        sf.model.LangCell.setup_anndata(5)


def test_names_in_messages_are_plain_text():
    assert quoted(np.array(["enteric glial cell", "NK"])) == "'enteric glial cell', 'NK'"
    assert shown(np.str_("NK")) == "'NK'"
    assert (shown(np.float32(0.5)), shown(AnnData), shown(np.ones(2))) == ("0.5", "the class AnnData", "a ndarray")


@given(st.integers() | st.floats() | st.text() | st.booleans() | st.none() | st.lists(st.integers()))
def test_sizes_counts_and_shares_are_what_they_say(value):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) and number
    assert fits(value, Size) == (whole and value >= 1)
    assert fits(value, Count) == (whole and value >= 0)
    assert fits(value, Share) == (number and 0 <= value <= 1)
    assert fits(value, int | None) == (whole or value is None)
