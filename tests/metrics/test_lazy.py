from __future__ import annotations

import subprocess
import sys

import pytest

import scfoundry as sf


@pytest.mark.parametrize("room", ["metrics", "pp"])
def test_the_namespace_imports_no_heavy_library(room: str) -> None:
    heavy = {"torch", "scanpy", "scvi", "sklearn", "transformers"}
    code = f"import sys, scfoundry as sf; dir(sf.{room}); sys.exit(str({heavy} & set(sys.modules) or ''))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert run.stderr.strip() == ""


def test_names_complete() -> None:
    assert {"annotation", "clustering", "denoising", "imputation", "summarise"} <= set(dir(sf.metrics))
    assert {"holdout_genes", "simulate_dropout"} <= set(dir(sf.pp))
