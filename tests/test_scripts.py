"""Benchmarks, recipes and scripts import and explain themselves: what they call is still there."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

import scfoundry as sf

ROOT = Path(__file__).parents[1]
# Of two seeds each, but the twin; "an ablation" is in no leaderboard.
SCORES = {"ours": [0.5, 0.7], "PCA": [0.4, 0.4], "random weights, adapted": [0.5], "an ablation": [0.9, 0.9]}
# Peers that are no dependency of the package.
OPTIONAL = {"scib_metrics", "celltypist", "tangram"}

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="an sdist has no benchmarks")


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def modules_of(folder: str) -> list[str]:
    files = (ROOT / folder).rglob("*.py")
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem[0] != "_")


@pytest.mark.parametrize("module", modules_of("benchmarks"))
def test_every_part_of_a_benchmark_imports(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")


def test_every_benchmark_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    benchmarks = importlib.import_module("benchmarks.__main__").BENCHMARKS
    for name, module in benchmarks.items():
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"benchmarks.{module}").main(["--help"])
        assert ended.value.code == 0
        assert f"python -m benchmarks {name}" in capsys.readouterr().out


def test_the_leaderboard_is_that_of_the_result_files() -> None:
    board = importlib.import_module("benchmarks.leaderboard")
    assert (ROOT / "benchmarks" / "leaderboard.md").read_text() == board.leaderboard(), (
        "The result files changed: python -m benchmarks leaderboard"
    )


def test_a_standing_has_means_over_seeds_of_our_method_peers_and_twins() -> None:
    board, summary = (importlib.import_module(f"benchmarks.{name}") for name in ("leaderboard", "summary"))
    rows = pd.DataFrame(
        [("set", method, seed, value) for method, values in SCORES.items() for seed, value in enumerate(values)],
        columns=["data", "method", "seed", "score"],
    )
    table = board.standing(summary.Measured("embed", "total", "cellplm-mini", rows, "ours", ("PCA",), False))
    table = table.set_index("method")
    assert list(table.index) == ["**cellplm-mini**", "PCA", "random weights, adapted"]
    assert table["mean"].tolist() == pytest.approx([0.6, 0.4, 0.5])
    assert table["sd"].tolist()[:2] == pytest.approx([0.1 * 2**0.5, 0.0])
    assert table["seeds"].tolist() == [2, 2, 1]
    assert table["seconds"].isna().all()


@pytest.mark.parametrize(
    "script",
    [
        path.name
        for folder in ("recipes", "scripts")
        for path in sorted((ROOT / folder).glob("*.py"))
        if "__main__" in path.read_text()
    ],
)
def test_every_script_explains_itself(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(ROOT / folder / script for folder in ("recipes", "scripts") if (ROOT / folder / script).exists())
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(str(path.parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_the_benchmark_of_gpus_runs_anywhere_at_small_size(monkeypatch, tmp_path, capsys) -> None:
    gpu = importlib.import_module("benchmarks.gpu")
    monkeypatch.setattr(sf.settings, "verbosity", sf.settings.verbosity)  # which a benchmark sets
    monkeypatch.setattr(gpu, "DEFAULTS", {"cellplm": "cellplm-mini"})
    monkeypatch.setattr(gpu, "PUBLISHED", gpu.PUBLISHED.__class__(n_layers=1, n_hidden=32, n_heads=2))
    sizes = ["--n-cells", "20", "--batch-sizes", "1", "--positions", "8"]
    gpu.main(["--device", "cpu", *sizes, "--out", str(tmp_path / "gpu.json")])
    shown = capsys.readouterr().out
    assert "cellplm-mini, least cosine to the CPU | 1.00000" in shown
    assert "1 x 8 positions" in (tmp_path / "gpu.md").read_text()
