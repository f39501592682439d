"""What keeps the rooms of the package apart; the direction of imports is checked by `make lint`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import scfoundry

PACKAGE = Path(scfoundry.__file__).parent
MODELS = sorted(path.name for path in (PACKAGE / "model").iterdir() if (path / "__init__.py").exists())
NAMED = re.compile("|".join(rf"\b{name}" for name in [*MODELS, "celler", "celllm", "scpalm", "scgpt"]), re.IGNORECASE)


@pytest.mark.parametrize("room", ["tasks", "stats", "train", "nn", "data"])
def test_no_model_is_called_by_its_name(room: str) -> None:
    named = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if NAMED.search(line)
    ]
    assert named == []


def test_files_stay_small() -> None:
    long = [str(path) for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 400]
    assert long == []
