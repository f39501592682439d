"""The code of every tutorial notebook runs from top to bottom, without Jupyter and without network."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pytest

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTEBOOKS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))


@pytest.fixture
def fresh_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder and no screen; what a notebook sets for its session is set back."""
    verbosity, lightning = sf.settings.verbosity, logging.getLogger("lightning.pytorch")
    level, backend = lightning.level, plt.get_backend()
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    with plt.rc_context():
        yield
    plt.close("all")
    plt.switch_backend(backend)
    lightning.setLevel(level)
    sf.settings.verbosity = verbosity


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request: pytest.FixtureRequest) -> list[dict]:
    return [cell for cell in json.loads(request.param.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_there_are_tutorials() -> None:
    assert NOTEBOOKS


@pytest.mark.usefixtures("fresh_session")
def test_the_code_of_a_tutorial_runs(cells: list[dict]) -> None:
    session: dict = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), session)  # noqa: S102


def test_a_tutorial_shows_one_clean_run(cells: list[dict]) -> None:
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    shown = "".join("".join(output.get("text", "")) for cell in cells for output in cell["outputs"])
    assert "Warning" not in shown
    assert "it/s" not in shown
