"""All plots are called alike: `ax` or `axes`, `show`, `save`, and they return what they drew on."""

from __future__ import annotations

import inspect

import pytest

import scfoundry as sf


@pytest.mark.parametrize("name", sf.pl.__all__)
def test_arguments_are_those_of_scanpy(name: str) -> None:
    arguments = inspect.signature(getattr(sf.pl, name)).parameters
    keyword_only = [name for name, argument in arguments.items() if argument.kind is argument.KEYWORD_ONLY]
    assert keyword_only[-2:] == ["show", "save"]
    assert keyword_only[-3] in ("ax", "axes")
    assert all(arguments[name].default is None for name in keyword_only[-3:])
